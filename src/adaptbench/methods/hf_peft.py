"""Any tuner of Hugging Face PEFT through the same runner, one run at a time (extra `[peft]`).

The YAML gives PEFT's own type and arguments. Training, scoring, billing and records are those of every other method:
what is scored is PEFT's own forward pass of a row alone, whatever batch the row is in (`peft_trial.py`). A tuner that
cannot be had so is refused, and the message says why (`peft_tuners.py`).

What is trained is float32, whatever the model's precision: PEFT makes most parameters so, and whole modules that it
trains (norms, `modules_to_save`) are made to compute in it. Adaption prompts alone stay in the model's precision, and
the optimizer keeps float32 masters of them.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adaptbench.errors import InputError, one_line
from adaptbench.methods.base import Adaptation, TrainedMethod, register
from adaptbench.methods.peft_trial import check_by_trial
from adaptbench.methods.peft_tuners import (
    LOOK_UP_WORDS,
    NEED_TASK,
    READ_VALUES,
    check_tuner,
    check_tuner_on,
    check_values,
)
from adaptbench.models.backbone import Backbone
from adaptbench.models.encoders import Encoder


@register("hf_peft")
@dataclass(frozen=True)
class HuggingFacePeft(TrainedMethod):
    """`peft_type` is one of PEFT's, such as LORA, OFT or VERA; `arguments` are those of its configuration class."""

    fuses: ClassVar[bool] = False
    attachment = "whatever PEFT's tuner attaches to"
    formula = "of the tuner"
    source = "github.com/huggingface/peft"

    peft_type: str = "LORA"
    arguments: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        check_tuner(self.peft_type, self.arguments)
        self._config()

    def check_model(self, backbone: Backbone) -> None:
        check_tuner_on(self.peft_type, backbone.is_encoder_decoder, backbone.name)

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        """PEFT's model around a copy of the base model.

        Raises:
            InputError: the tuner does not fit the model, trains nothing on it, or scores depend on the batch with it.
        """
        if len(seeds) != 1:
            raise ValueError("PEFT trains one run at a time")
        self.check()
        self.check_model(backbone)
        named = f"method.peft_type={self.peft_type!r}"
        if backbone.device.type == "meta" and self.peft_type in READ_VALUES:
            reason = NotImplementedError("a model on the meta device has none")
            raise InputError(f"{named}: reads values, and can be counted only with the model's weights") from reason
        bare = isinstance(backbone, Encoder)
        config = self._config(
            "FEATURE_EXTRACTION" if bare else "SEQ_2_SEQ_LM" if backbone.is_encoder_decoder else "CAUSAL_LM"
        )
        if bare and config.is_prompt_learning:
            raise InputError(
                f"{named}: puts tokens before a text, which moves it under a head; prompt and prefix do not"
            )
        model = copy.deepcopy(backbone.model)
        with torch.random.fork_rng(), torch.device(backbone.device):
            torch.manual_seed(seeds[0])
            try:
                wrapped = _peft().get_peft_model(model, config).eval()
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # PEFT raises whatever its tuner runs into
                raise InputError(f"method.arguments: PEFT cannot attach {self.peft_type}: {one_line(error)}") from error
        _train_in_single_precision(wrapped, backbone.dtype)
        if self.peft_type in NEED_TASK:
            wrapped.register_forward_pre_hook(_the_only_task, with_kwargs=True)
        prompt = config.num_virtual_tokens if config.is_prompt_learning else 0
        adapted = replace(
            backbone,
            model=wrapped,
            packs_choices=backbone.packs_choices and not config.is_prompt_learning,
            max_length=backbone.max_length - prompt,  # PEFT's virtual tokens take positions, too
        )
        adaptation = Adaptation(adapted, seeds, tuned=True)
        if not adaptation.trainable:
            raise InputError(f"{named}: with these arguments it trains nothing on {backbone.name}")
        if backbone.device.type != "meta":
            check_by_trial(adapted, adaptation.parameters, named, self.peft_type in LOOK_UP_WORDS)
        return adaptation

    def prepare_to_count(self, backbone: Backbone) -> Adaptation:
        """On the real model where the tuner computes with values."""
        if self.peft_type in READ_VALUES:
            return self.prepare(backbone, [0])
        return super().prepare_to_count(backbone)

    def stored_tensors(self, adaptation: Adaptation) -> tuple[dict[str, Tensor], dict[str, str]]:
        return {n: p for n, p in adaptation.backbone.model.named_parameters() if p.requires_grad}, {}

    def save(self, adaptation: Adaptation, folder: Path, run: int) -> int:
        """PEFT's own two files: what its users would keep."""
        folder.mkdir(parents=True, exist_ok=True)
        adaptation.backbone.model.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)
        return sum(file.stat().st_size for file in folder.iterdir())

    def _config(self, task: str = "CAUSAL_LM") -> Any:
        peft = _peft()
        classes = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
        known = {str(getattr(kind, "value", kind)): config for kind, config in classes.items()}
        if self.peft_type not in known:
            raise InputError(f"method.peft_type={self.peft_type!r}: expected one of {', '.join(sorted(known))}")
        try:
            config = known[self.peft_type](**{"task_type": task, **copy.deepcopy(self.arguments)})
        except Exception as error:  # of PEFT's own checks
            raise InputError(f"method.arguments={self.arguments}: {one_line(error)}") from error
        check_values(self.peft_type, config)
        return config


def _train_in_single_precision(model: nn.Module, dtype: torch.dtype) -> None:
    """Modules without parts that are trained themselves, in half precision, compute in float32 from here on."""

    def widened(_module: nn.Module, args: tuple) -> tuple:
        return tuple(arg.float() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args)

    def narrowed(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        return output.to(dtype)

    for module in model.modules():
        trained = [
            parameter
            for parameter in module.parameters(recurse=False)
            if parameter.requires_grad and parameter.dtype.itemsize < 4
        ]
        if trained and not list(module.children()):
            module.float()
            module.register_forward_pre_hook(widened)
            module.register_forward_hook(narrowed)


def _the_only_task(_model: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
    """A run has one task: all rows are of the first."""
    ids = kwargs["input_ids"]
    return args, {"task_ids": torch.zeros(len(ids), dtype=torch.long, device=ids.device), **kwargs}


def _peft() -> Any:
    try:
        return import_module("peft")
    except ImportError as error:
        raise InputError("method=hf_peft: needs the package peft: pip install 'adaptbench[peft]'") from error
