"""Which settings of a Hugging Face PEFT adapter are understood here, and which modules its `target_modules` name.

An allow-list, against the fields of peft 0.21: a setting is read, or does not change what trained adapters compute, or
has to be unset. So a setting that a later PEFT adds is refused by name instead of being left out in silence.
"""

import re
import sys
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from adaptbench.errors import InputError
from adaptbench.methods.tensor_files import listed, shown
from adaptbench.models.backbone import Backbone
from adaptbench.models.sites import ROLES, LinearSite

Settings = Mapping[str, Any]

# The model's name and version, PEFT's own bookkeeping.
_BOOKKEEPING = {"peft_type", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping", "peft_version"}
_NO_EFFECT = {
    # fan_in_fan_out: PEFT goes by the module's type. The *_config: initial values, which init_lora_weights chooses.
    # qalora_group_size, megatron_core: nothing without use_qalora, megatron_config.
    "LORA": {
        *("lora_dropout", "fan_in_fan_out", "runtime_config", "qalora_group_size", "megatron_core"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config"),
    },
    "IA3": {"fan_in_fan_out", "init_ia3_weights"},
    "LN_TUNING": set(),
    # The sizes are the saved tensor's own.
    "PROMPT_TUNING": {
        *("prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"),
        *("token_dim", "num_layers", "num_attention_heads"),
    },
}
_READ = {
    "LORA": {
        *("task_type", "target_modules", "r", "lora_alpha", "use_rslora", "bias", "init_lora_weights"),
        *("rank_pattern", "alpha_pattern", "adaptbench_targets"),
    },
    "IA3": {"task_type", "target_modules", "feedforward_modules"},
    "LN_TUNING": {"task_type", "target_modules"},
    "PROMPT_TUNING": {"task_type", "num_virtual_tokens", "num_transformer_submodules"},
}
_WITHOUT_HEAD = (None, "CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION")  # others train a head of their own
# Those that leave the base model as it is. PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ take what they start from out of its
# weights: what PEFT saves then belongs to the changed weights, unless it was converted, which sets True.
_INITIALISATIONS = (None, True, False, "true", "gaussian", "eva", "orthogonal", "mica")
_LARGEST = 2**20  # of a rank, or a number of virtual tokens: beyond any model, and sizes stay computable


def check_settings(settings: Settings) -> None:
    """Find fault with the settings of an adapter whose `peft_type` is known here.

    Raises:
        InputError: a setting that changes what the adapter computes in a way that has no counterpart here.
    """
    kind = settings["peft_type"]
    known = _BOOKKEEPING | _NO_EFFECT[kind] | _READ[kind]
    for name, value in settings.items():
        if name not in known and not unset(value):
            raise InputError(f"{shown(name)[1:-1]}={shown(value)}: {kind} with it has no counterpart here")
    if settings.get("task_type") not in _WITHOUT_HEAD:
        raise InputError(f"task_type={shown(settings['task_type'])}: expected a language model's, which has no head")
    if settings.get("bias", "none") != "none":
        raise InputError(f"bias={shown(settings['bias'])}: {kind} with trained biases has no counterpart here")
    start = settings.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in _INITIALISATIONS:
        raise InputError(
            f"init_lora_weights={shown(start)}: expected one that leaves the base model's weights as they are; PEFT"
            " converts others when it saves with path_initial_model_for_weight_conversion"
        )


def unset(value: Any) -> bool:
    """Null, false or empty. Zero is a value: `layers_to_transform=0` is the first layer."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


def whole_number(settings: Settings, name: str) -> int:
    """A setting that is a size.

    Raises:
        InputError: it is missing, or no whole number from 1.
    """
    value = settings.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LARGEST:
        raise InputError(f"{name}={shown(value)}: expected a whole number from 1 to {_LARGEST}")
    return value


def number(settings: Settings, name: str) -> float:
    """A setting that is a finite number.

    Raises:
        InputError: it is missing or something else.
    """
    value = settings.get(name)
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < sys.float_info.max:
        raise InputError(f"{name}={shown(value)}: expected a number")
    return float(value)


def truth(settings: Settings, name: str) -> bool:
    """A setting that is true or false, and false where it is missing.

    Raises:
        InputError: it is something else.
    """
    value = settings.get(name)
    if value not in (None, True, False) or isinstance(value, int) != isinstance(value, bool):
        raise InputError(f"{name}={shown(value)}: expected true or false")
    return bool(value)


def targeted(settings: Settings, backbone: Backbone) -> set[str]:
    """Paths of all modules that PEFT would adapt: by names or their ends, by a regular expression, or `all-linear`.

    Raises:
        InputError: no such setting, or one that names nothing.
    """
    wanted = settings.get("target_modules")
    if isinstance(wanted, str) and wanted.lower() == "all-linear":
        output = backbone.model.get_output_embeddings()
        linear = (path for path, module in backbone.model.named_modules() if isinstance(module, nn.Linear | Conv1D))
        paths = {path for path in linear if backbone.model.get_submodule(path) is not output}
    else:
        paths = {path for path, _ in backbone.model.named_modules() if _names(settings, "target_modules", path)}
    if not paths:
        raise InputError(f"target_modules={shown(wanted)}: names no module of {backbone.name}")
    return paths


def is_feedforward(settings: Settings, path: str) -> bool:
    """Whether PEFT's (IA)^3 scales the input of this module instead of its output.

    Raises:
        InputError: the setting is missing or something else.
    """
    return _names(settings, "feedforward_modules", path, dot="")


def sites_of(settings: Settings, backbone: Backbone) -> tuple[LinearSite, ...]:
    """The linear maps an adapter attaches to.

    Raises:
        InputError: it attaches to something else too, or to some maps of a role and not to others.
    """
    paths = targeted(settings, backbone)
    named = f"target_modules={shown(settings['target_modules'])}"
    if strangers := paths - {site.path for site in backbone.anatomy.linears}:
        raise InputError(f"{named}: {listed(strangers)} is no linear map that methods attach to here")
    found = {site.role for site in backbone.anatomy.linears if site.path in paths}
    sites = backbone.anatomy.linear(*(role for role in ROLES if role in found))
    if absent := {site.path for site in sites} - paths:
        raise InputError(f"{named}: leaves out {listed(absent)}; methods here attach to all maps of a role")
    return sites


def _names(settings: Settings, name: str, path: str, dot: str = ".") -> bool:
    """Whether a setting names the module at `path`, by PEFT's rules."""
    wanted = settings.get(name)
    try:
        if isinstance(wanted, str):
            return re.fullmatch(wanted, path) is not None
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"{name}={shown(wanted)}: not a regular expression ({error})") from error
    if not isinstance(wanted, list) or not all(isinstance(entry, str) for entry in wanted):
        raise InputError(f"{name}={shown(wanted)}: expected a list of module names or a regular expression")
    return path in wanted or any(path.endswith(f"{dot}{ending}") for ending in wanted)
