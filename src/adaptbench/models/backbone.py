"""The frozen base model with its tokenizer, loaded once per process however many cells follow."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as hf_logging

from adaptbench.errors import InputError
from adaptbench.models.anatomy import ENCODERS_ONLY, Anatomy, anatomy_of
from adaptbench.models.attention import IMPLEMENTATION
from adaptbench.models.placement import placement

if TYPE_CHECKING:
    from adaptbench.config import ModelConfig

SHIPPED = Path(__file__).parent.parent / "microworld" / "weights"
SMALL = 10_000_000  # parameters
NO_LIMIT = 10**9  # tokenizers report absurd numbers where a model has no limit of its own


@dataclass(frozen=True, eq=False)
class Backbone:
    """A base model, ready to be adapted. Its own parameters never change; methods attach to it or copy it."""

    name: str
    model: PreTrainedModel
    tokenizer: Any
    anatomy: Anatomy
    device: torch.device
    dtype: torch.dtype
    max_length: int
    virtual_tokens: int = 0  # places a method wants before every prompt's own tokens (prompt tuning)
    packs_choices: bool = True  # choices may share a pass; not in models that extend plain masks themselves
    virtual_tokens_of_choice: int = 0  # and before each choice that an encoder-decoder's decoder reads
    overlong: str = "refuse"  # prompts beyond max_length: refuse or truncate

    @property
    def is_encoder_decoder(self) -> bool:
        return self.model.config.is_encoder_decoder

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else 0

    @property
    def parameters_total(self) -> int:
        return self.model.num_parameters()  # 4-bit weights are packed: counting elements would halve them

    def on_meta(self) -> "Backbone":
        """The same architecture without storage: for counting what a step costs."""
        model = from_config(self.model.config, self.dtype)
        return replace(self, model=model, device=torch.device("meta"))

    def unfrozen_copy(self) -> "Backbone":
        """A deep copy whose every parameter is trainable (full fine-tuning)."""
        if getattr(self.model, "is_quantized", False):
            raise InputError("model.quantization: quantised weights cannot be fine-tuned; use quantization=none")
        return replace(self, model=copy.deepcopy(self.model).requires_grad_(True))


def load(model: "ModelConfig", device: str = "auto") -> Backbone:
    """The model a configuration names, loaded once per process."""
    return load_backbone(
        model.name,
        model.path,
        model.dtype,
        model.max_length,
        device,
        overlong=model.overlong,
        device_map=model.device_map,
        quantization=model.quantization,
    )


@lru_cache(maxsize=1)
def load_backbone(
    name: str,
    path: str,
    dtype: str = "float32",
    max_length: int | None = None,
    device: str = "auto",
    *,
    overlong: str = "refuse",
    device_map: str | None = None,
    quantization: str = "none",
) -> Backbone:
    """Load a model folder, a hub id, or `microworld:<name>`, frozen and in evaluation mode.

    Raises:
        InputError: nothing loadable at `path`, an architecture without an anatomy, a missing optional package, or
            fp16 for a T5 (its feed-forward activations overflow there).
    """
    source = resolve_path(path)
    config = load_config(path)
    if dtype == "float16" and config.model_type in {"t5", "mt5", "umt5"}:
        raise InputError("model.dtype='float16': T5 overflows in float16; use bfloat16 or float32")
    check_scores(config, f"model.path={path!r}")
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    target = torch.device(pick_device(device))
    placing = placement(device_map, quantization, getattr(torch, dtype), target)
    hf_logging.disable_progress_bar()
    try:
        model = auto.from_pretrained(source, dtype=getattr(torch, dtype), attn_implementation=IMPLEMENTATION, **placing)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise _cannot_load(path, error) from error
    model.requires_grad_(False).eval()
    if placing:
        target = next(model.get_input_embeddings().parameters()).device  # where a batch has to go; the rest follows
    else:
        model = model.to(target)  # type: ignore[arg-type]
    if target.type == "cpu" and model.num_parameters() < SMALL:
        torch.set_num_threads(1)  # as fast as two, and seventy times faster beside another busy process (docs/log.md)
    return Backbone(
        name,
        model,
        tokenizer,
        anatomy_of(model),
        target,
        getattr(torch, dtype),
        max_length or _own_limit(config, tokenizer),
        overlong=overlong,
    )


def from_config(config: Any, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A frozen model without storage, from its configuration alone (any size, no weights)."""
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=IMPLEMENTATION)
    return model.requires_grad_(False).eval()


def meta_backbone(name: str, path: str, dtype: str = "float32", shape: Mapping[str, Any] | None = None) -> Backbone:
    """A backbone without storage or tokenizer: from a published shape, else from the configuration at `path`."""
    config = AutoConfig.for_model(**shape) if shape else load_config(path)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0  # any id costs the same
    model = from_config(config, getattr(torch, dtype))
    return Backbone(name, model, None, anatomy_of(model), torch.device("meta"), getattr(torch, dtype), NO_LIMIT)


def load_config(path: str) -> Any:
    """The model's configuration, from a folder, the hub or its cache."""
    try:
        return AutoConfig.from_pretrained(resolve_path(path))
    except (OSError, ValueError) as error:
        raise _cannot_load(path, error) from error


def resolve_path(path: str) -> str:
    """A folder or hub id; `microworld:<name>` is the model of that name shipped with the package."""
    if path.startswith("microworld:"):
        folder = SHIPPED / path.removeprefix("microworld:")
        if not folder.is_dir():
            raise InputError(f"model.path={path!r}: no such shipped model; run `make pretrain`")
        return str(folder)
    return str(Path(path).expanduser()) if Path(path).expanduser().is_dir() else path


def known_weights(path: str) -> str | None:
    """The hash of a file, or in a folder's provenance if it has one: a rebuilt model is not the old one."""
    place = Path(resolve_path(path)).expanduser()
    if place.is_file():
        return hashlib.sha256(place.read_bytes()).hexdigest()
    file = place / "provenance.json"
    return json.loads(file.read_text())["sha256"] if file.is_file() else None


def pick_device(device: str) -> str:
    """`auto` is the accelerator where there is one, else the CPU."""
    if device != "auto":
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise InputError(f"device={device!r}: {str(error).splitlines()[0]}") from error
        return device
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return accelerator.type if accelerator else "cpu"


def _own_limit(config: Any, tokenizer: Any) -> int:
    """Learned or rotary positions bound the length; T5's relative ones do not, its tokenizer's number is advice."""
    return positions(config) or min(tokenizer.model_max_length, NO_LIMIT)


def positions(config: Any) -> int | None:
    """How many positions a decoder-only model has; None where they do not bound its inputs."""
    if config.is_encoder_decoder:
        return None
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


def check_scores(config: Any, named: str) -> None:
    """Refuse an architecture that cannot score answers.

    Raises:
        InputError: it is an encoder.
    """
    if config.model_type in ENCODERS_ONLY:
        raise InputError(f"{named}: {config.model_type} is an encoder and cannot score answers")


def _cannot_load(path: str, error: Exception) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"model.path={path!r}: not a model folder, and not on the hub or in its cache: {reason}")
