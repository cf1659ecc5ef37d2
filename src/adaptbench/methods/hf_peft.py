"""Any tuner of Hugging Face PEFT through the same runner, one run at a time (extra `[peft]`).

The YAML gives PEFT's own type and arguments. Training, scoring, billing and records are those of every other method.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch

from adaptbench.errors import InputError
from adaptbench.methods.base import Adaptation, TrainedMethod, register
from adaptbench.models.backbone import Backbone


@register("hf_peft")
@dataclass(frozen=True)
class HuggingFacePeft(TrainedMethod):
    """`peft_type` is one of PEFT's, such as LORA, OFT or VERA; `arguments` are those of its configuration class."""

    fuses: ClassVar[bool] = False
    where = "whatever PEFT's tuner attaches to"
    formula = "of the tuner"
    source = "github.com/huggingface/peft"

    peft_type: str = "LORA"
    arguments: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        self._config()

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        if len(seeds) != 1:
            raise ValueError("PEFT trains one run at a time")
        task = "SEQ_2_SEQ_LM" if backbone.is_encoder_decoder else "CAUSAL_LM"
        config = self._config(task_type=task)
        model = copy.deepcopy(backbone.model)
        with torch.random.fork_rng(), torch.device(backbone.device):
            torch.manual_seed(seeds[0])
            try:
                wrapped = _peft().get_peft_model(model, config)
            except (ValueError, TypeError, KeyError, AttributeError, RuntimeError, NotImplementedError) as error:
                raise InputError(f"method.arguments: PEFT cannot attach {self.peft_type}: {_line(error)}") from error
        packs = backbone.packs_choices and not config.is_prompt_learning
        return Adaptation(replace(backbone, model=wrapped.eval(), packs_choices=packs), seeds, tuned=True)

    def save(self, adaptation: Adaptation, folder: Path, run: int) -> int:
        """PEFT's own two files: what its users would keep."""
        folder.mkdir(parents=True, exist_ok=True)
        adaptation.backbone.model.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)
        return sum(file.stat().st_size for file in folder.iterdir())

    def _config(self, **more: Any) -> Any:
        peft = _peft()
        classes = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
        known = {str(getattr(kind, "value", kind)): config for kind, config in classes.items()}
        if self.peft_type not in known:
            raise InputError(f"method.peft_type={self.peft_type!r}: expected one of {', '.join(sorted(known))}")
        try:
            return known[self.peft_type](**{**more, **self.arguments})
        except (TypeError, ValueError, ImportError) as error:
            raise InputError(f"method.arguments={self.arguments}: {_line(error)}") from error


def _peft() -> Any:
    try:
        return import_module("peft")
    except ImportError as error:
        raise InputError("method=hf_peft: needs the package peft: pip install 'adaptbench[peft]'") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
