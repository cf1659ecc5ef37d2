"""The frozen base model with its tokenizer, loaded once per process however many cells follow."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging as hf_logging

from adaptbench.errors import InputError
from adaptbench.models.anatomy import (
    Anatomy,
    anatomy_of,
    calls_attention_function,
    has_anatomy,
    packs_choices,
)
from adaptbench.models.at_hand import check_vocabulary
from adaptbench.models.attention import IMPLEMENTATION
from adaptbench.models.checks import check_loadable, positions
from adaptbench.models.cpu_memory import keep_freed_memory
from adaptbench.models.cpu_norms import quicken
from adaptbench.models.experts import COUNTED
from adaptbench.models.identity import content_id
from adaptbench.models.paths import resolve_path
from adaptbench.models.placement import placement
from adaptbench.models.trial import check_by_trial, runs_without_storage
from adaptbench.schema import LOGITS_LIMIT, ModelConfig

SMALL = 10_000_000  # parameters; below, time goes into calls, not into arithmetic
NO_LIMIT = 10**9  # tokenizers report absurd numbers where a model has no limit of its own


@dataclass(frozen=True, eq=False)
class Backbone:
    """A base model, ready to be adapted. Its own parameters never change; methods attach to it or copy it."""

    name: str
    model: PreTrainedModel
    tokenizer: Any
    device: torch.device
    dtype: torch.dtype
    max_length: int
    virtual_tokens: int = 0  # places a method wants before every prompt's own tokens (prompt tuning)
    packs_choices: bool = True  # choices may share a pass; not where the model makes masks or positions itself
    packs_rows: bool = False  # the rows of a run are laid end to end, without padding: where it pays, on CPUs
    virtual_tokens_of_choice: int = 0  # and before each choice that an encoder-decoder's decoder reads
    overlong: str = "refuse"  # prompts beyond max_length: refuse or truncate
    logits_limit: int = LOGITS_LIMIT  # most bytes of logits in a pass
    head: Any = None  # the delta of what a task trains on top of it, for R runs (`models/heads.py`)

    @cached_property
    def anatomy(self) -> Anatomy:
        """Where its parts are.

        Raises:
            InputError: its architecture has no entry in `models/anatomy.py`.
        """
        return anatomy_of(self.model, f"model={self.name}")

    @property
    def has_anatomy(self) -> bool:
        """Whether it is known where its parts are."""
        return has_anatomy(self.model.config)

    @property
    def shares_demonstrations(self) -> bool:
        """Keys and values of demonstrations, read once, can serve all prompts that follow them."""
        return not self.is_encoder_decoder and calls_attention_function(self.model.config)

    @property
    def is_encoder_decoder(self) -> bool:
        return self.model.config.is_encoder_decoder

    @property
    def pad_id(self) -> int:
        return getattr(self.tokenizer, "pad_token_id", None) or 0  # without a tokenizer: steps are only counted

    @property
    def parameters_total(self) -> int:
        return self.model.num_parameters()  # 4-bit weights are packed: counting elements would halve them

    def on_meta(self, config: Any = None) -> "Backbone":
        """The same architecture without storage: for counting what a step costs.

        Args:
            config: of another size; None: its own.
        """
        model = from_config(config or self.model.config, self.dtype)
        return replace(self, model=model, device=torch.device("meta"))

    def to_count(self) -> "Backbone":
        """The same without storage, or with it where the code asks what tensors contain; rows are padded."""
        if self.device.type == "meta":
            return self
        with suppress(Exception):  # whatever code that no test here knows may raise without contents
            meta = self.on_meta()
            if self.has_anatomy or runs_without_storage(meta.model):
                return meta
        return replace(self, packs_rows=False)

    def train(self, mode: bool = True) -> None:
        """Dropout on or off, in the model and in a task's head."""
        self.model.train(mode)
        if self.head is not None:
            self.head.train(mode)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside, dropout is on; after it off, however the training ended: the model outlives it."""
        self.train()
        try:
            yield
        finally:
            self.train(False)

    def unfrozen_copy(self) -> "Backbone":
        """A deep copy whose every parameter is trainable (full fine-tuning)."""
        if getattr(self.model, "is_quantized", False):
            raise InputError("model.quantization: quantised weights cannot be fine-tuned; use quantization=none")
        return replace(self, model=copy.deepcopy(self.model).requires_grad_(True))


def load(model: ModelConfig, device: str = "auto") -> Backbone:
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
        logits_limit=model.logits_limit,
        content=content_id(resolve_path(model.path), model.revision),
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
    logits_limit: int = LOGITS_LIMIT,
    content: str | None = None,
) -> Backbone:
    """Load a model folder, a hub id, or `microworld:<name>`, frozen and in evaluation mode.

    Args:
        logits_limit: most bytes that the logits of a pass may take, all its runs together.
        content: which weights (`models/identity.py`): the commit of a hub id, else only a key of the cache.

    Raises:
        InputError: nothing loadable at `path`, an architecture without an anatomy, a missing optional package, or
            fp16 for a T5 (its feed-forward activations overflow there).
    """
    pinned = pinned_to(path, content)
    config = load_config(path, **pinned)
    check_loadable(config, path, dtype, max_length)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    place: dict[str, Any] = {"device": device, "device_map": device_map, "quantization": quantization}
    model, tokenizer, target = load_frozen(auto, path, config, dtype, pinned, **place)
    if config.is_encoder_decoder:
        model.config.decoder_start_token_id = config.decoder_start_token_id
    if not has_anatomy(config):
        check_by_trial(model, tokenizer, f"model.path={path!r}")
    return Backbone(
        name,
        model,
        tokenizer,
        target,
        getattr(torch, dtype),
        max_length or own_limit(config, tokenizer),
        packs_choices=packs_choices(config),
        packs_rows=model.num_parameters() >= SMALL and on_cpu(model) and can_pack_rows(model),
        overlong=overlong,
        logits_limit=logits_limit,
    )


def load_frozen(
    auto: Any,
    path: str,
    config: Any,
    dtype: str,
    pinned: Mapping[str, str],
    *,
    device: str = "auto",
    device_map: str | None = None,
    quantization: str = "none",
    **options: Any,
) -> tuple[PreTrainedModel, Any, torch.device]:
    """A model, frozen and in evaluation mode, its tokenizer, and the device that a batch has to go to.

    Args:
        auto: the class of transformers that makes it.
        config: its configuration, read before.
        pinned: the revision of a hub id.
        options: more that `from_pretrained` is told.

    Raises:
        InputError: nothing loadable at `path`, a tokenizer without a vocabulary, or a missing optional package.
    """
    source = resolve_path(path)
    target = torch.device(pick_device(device))
    placing = placement(device_map, quantization, getattr(torch, dtype), target)
    hf_logging.disable_progress_bar()
    options |= {"dtype": getattr(torch, dtype), **_attention(config), **_whole(config), **placing, **pinned}
    try:
        model = auto.from_pretrained(source, **options)
        tokenizer = AutoTokenizer.from_pretrained(source, **pinned)
    except Exception as error:
        raise _cannot_load(path, error) from error
    check_vocabulary(tokenizer, f"model.path={path!r}")
    model.requires_grad_(False).eval()
    if target.type == "cpu" and not placing and model.num_parameters() >= SMALL:
        quicken(model)
        keep_freed_memory()
    if placing:
        target = next(model.get_input_embeddings().parameters()).device  # where a batch has to go; the rest follows
    else:
        model = model.to(target)
    if target.type == "cpu" and model.num_parameters() < SMALL:
        torch.set_num_threads(1)  # as fast as two, and seventy times faster beside another busy process (docs/log.md)
    return model, tokenizer, target


def on_cpu(model: PreTrainedModel) -> bool:
    """Whether all of it is there."""
    return all(parameter.device.type == "cpu" for parameter in model.parameters())


def can_pack_rows(model: PreTrainedModel) -> bool:
    """Whether rows can be laid end to end: masks and positions are ours, and the head is a module of its own."""
    config = model.config
    ours = has_anatomy(config) and packs_choices(config) and calls_attention_function(config)
    return ours and not config.is_encoder_decoder and model.get_output_embeddings() is not None


def pinned_to(path: str, content: str | None) -> dict[str, str]:
    """The revision of a hub id, as `from_pretrained` takes it; nothing for a folder."""
    return {} if content is None or Path(resolve_path(path)).exists() else {"revision": content}


def from_config(config: Any, dtype: torch.dtype = torch.float32, auto: Any = None, **options: Any) -> PreTrainedModel:
    """A frozen model without storage, from its configuration alone (any size, no weights).

    Args:
        auto: the class of transformers that makes it, else that of a language model; `options` are for it.
    """
    auto = auto or (AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM)
    config = copy.deepcopy(config)
    for name, value in _whole(config).items():
        setattr(config, name, value)
    attention = _attention(config) if has_anatomy(config) else {"attn_implementation": "eager"}  # the least that runs
    with torch.device("meta"):
        model = auto.from_config(config, dtype=dtype, experts_implementation=COUNTED, **attention, **options)
    return model.requires_grad_(False).eval()


def _attention(config: Any) -> dict[str, str]:
    """Our attention function where the architecture can take one, else the library's default."""
    if calls_attention_function(config):
        return {"attn_implementation": IMPLEMENTATION}
    return {}


def _whole(config: Any) -> dict[str, float]:
    """Settings that leave no layer out while training (M2M-100 does by default).

    LayerDrop regularises pre-training. Here it would skip layers for all fused runs at once, give what is attached to
    them no gradient, and make the price of a step a matter of luck.
    """
    names = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")
    return {name: 0.0 for name in names if getattr(config, name, None)}


def meta_backbone(
    name: str,
    path: str,
    dtype: str = "float32",
    shape: Mapping[str, Any] | None = None,
    revision: str | None = None,
) -> Backbone:
    """A backbone without storage or tokenizer: from a published shape, else from the configuration at `path`."""
    config = AutoConfig.for_model(**shape) if shape else load_config(path, revision)
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        config.decoder_start_token_id = 0  # any id costs the same
    model = from_config(config, getattr(torch, dtype))
    if not has_anatomy(config) and not runs_without_storage(model):
        raise InputError(f"model={name}: {config.model_type} runs only with contents, and is billed while it runs")
    packs = packs_choices(config)
    return Backbone(name, model, None, torch.device("meta"), getattr(torch, dtype), NO_LIMIT, packs_choices=packs)


def load_config(path: str, revision: str | None = None) -> Any:
    """The model's configuration, from a folder, the hub or its cache."""
    source = resolve_path(path)
    pinned: dict[str, Any] = {} if revision is None else {"revision": revision}
    try:
        config: Any = AutoConfig.from_pretrained(source, **pinned)
    except Exception as error:
        raise _cannot_load(path, error) from error
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        with suppress(OSError, ValueError):  # some say it there only
            config.decoder_start_token_id = GenerationConfig.from_pretrained(source, **pinned).decoder_start_token_id
    return config


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


def own_limit(config: Any, tokenizer: Any) -> int:
    """Learned or rotary positions bound the length; T5's relative ones do not, its tokenizer's number is advice."""
    return positions(config) or min(tokenizer.model_max_length, NO_LIMIT)


def _cannot_load(path: str, error: Exception) -> Exception:
    """What to raise: one line, whatever the library made of the folder; memory that runs out is no fault of it."""
    if isinstance(error, torch.OutOfMemoryError):
        return error
    reason = " ".join(str(error).split())[:200]
    if not isinstance(error, OSError | ValueError):
        reason = f"{type(error).__name__}: {reason}"
    return InputError(f"model.path={path!r}: not a model folder, and not on the hub or in its cache: {reason}")
