"""Adapters in Hugging Face PEFT's format: `adapter_model.safetensors` and `adapter_config.json`, out and in.

Written and read without the `peft` package. Slices of a fused projection (GPT-2's query-key-value), which PEFT knows
as one module, become one vector with ones elsewhere ((IA)^3), or one block-diagonal update of several ranks (LoRA).
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.base import Adaptation, Method, PeftMethod
from adaptbench.methods.checkpoints import read_json
from adaptbench.methods.ia3 import IA3
from adaptbench.methods.layernorm import LayerNorm
from adaptbench.methods.lora import LoRA
from adaptbench.methods.prompt import PromptTuning
from adaptbench.models.anatomy import LinearSite
from adaptbench.models.backbone import Backbone

State = dict[str, Tensor]
ROOT = "base_model.model."


@dataclass(frozen=True)
class Format:
    """How one method's state is written in PEFT's names and shapes, and read again."""

    peft_type: str
    settings: Callable[[Any, Backbone], dict[str, Any]]
    write: Callable[[Any, Backbone, State], State]
    method: Callable[[dict[str, Any], Backbone], PeftMethod]
    read: Callable[[Any, Backbone, State], State]


def export_peft(method: Method, adaptation: Adaptation, folder: Path, run: int = 0) -> None:
    """Write one run as a PEFT checkpoint.

    Raises:
        InputError: PEFT has no such method, or not this form of it.
    """
    form = FORMATS.get(method.kind)
    if form is None or adaptation.delta is None:
        raise InputError(f"method={method.name}: PEFT has no such method; exportable: {', '.join(FORMATS)}")
    if getattr(method, "layer_norms", False) and not isinstance(method, LayerNorm):
        raise InputError(f"method={method.name}: PEFT cannot hold it with layer norms (layer_norms=true)")
    backbone = adaptation.backbone
    settings = {
        "peft_type": form.peft_type,
        "task_type": "SEQ_2_SEQ_LM" if backbone.is_encoder_decoder else "CAUSAL_LM",
        "base_model_name_or_path": backbone.model.config._name_or_path or backbone.name,
        "inference_mode": True,
        **form.settings(method, backbone),
    }
    state = form.write(method, backbone, adaptation.delta.state_of(run))
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=1, sort_keys=True), encoding="utf-8")


def import_peft(folder: Path, backbone: Backbone) -> tuple[PeftMethod, Adaptation]:
    """The method and adaptation of a PEFT checkpoint.

    Raises:
        InputError: a type, setting, name or shape without counterpart here.
    """
    settings = read_json(folder / "adapter_config.json")
    forms = {form.peft_type: form for form in FORMATS.values()}
    form = forms.get(str(settings.get("peft_type")))
    if form is None:
        raise InputError(f"{folder}: peft_type={settings.get('peft_type')!r}: expected one of {', '.join(forms)}")
    method = form.method(settings, backbone)
    adaptation = method.prepare(backbone, seeds=[0])
    assert adaptation.delta is not None
    try:
        state = form.read(method, backbone, load_file(folder / "adapter_model.safetensors"))
        adaptation.delta.load_state_of(0, state)
    except (KeyError, ValueError, OSError) as error:
        raise InputError(f"{folder}: not an adapter of {backbone.name}: {error}") from error
    return method, adaptation


def _by_path(sites: tuple[LinearSite, ...]) -> dict[str, list[LinearSite]]:
    grouped: dict[str, list[LinearSite]] = {}
    for site in sites:
        grouped.setdefault(site.path, []).append(site)
    return grouped


def _width(backbone: Backbone, site: LinearSite) -> int:
    """All output columns of the module a site is, or is a slice of."""
    module: Any = backbone.model.get_submodule(site.path)
    return module.out_features if isinstance(module, nn.Linear) else module.nf


def _target_names(backbone: Backbone, paths: list[str]) -> list[str]:
    """Last names of the modules where those name nothing else in the model, else whole paths."""
    last = {path.rpartition(".")[2] for path in paths}
    named = {path for path, _ in backbone.model.named_modules() if path.rpartition(".")[2] in last}
    return sorted(last if named == set(paths) else paths)


def _sites_of(names: list[str] | str | None, backbone: Backbone) -> tuple[LinearSite, ...]:
    if not isinstance(names, list):
        raise InputError(f"target_modules={names!r}: expected a list of module names")
    ends = tuple(f".{name}" for name in names)
    return tuple(site for site in backbone.anatomy.linears if f".{site.path}".endswith(ends))


# (IA)^3 ---------------------------------------------------------------------------------------------------------------


def _ia3_settings(method: IA3, backbone: Backbone) -> dict[str, Any]:
    inner = [site.path for site in backbone.anatomy.linear("ff_out")]
    outer = [site.path for site in backbone.anatomy.linear("k", "v")]
    return {
        "target_modules": _target_names(backbone, list(dict.fromkeys(outer))) + _target_names(backbone, inner),
        "feedforward_modules": _target_names(backbone, inner),
        "fan_in_fan_out": _is_transposed(backbone),
    }


def _is_transposed(backbone: Backbone) -> bool:
    return not isinstance(backbone.model.get_submodule(backbone.anatomy.linears[0].path), nn.Linear)


def _ia3_write(method: IA3, backbone: Backbone, state: State) -> State:
    written = {f"{ROOT}{site.path}.ia3_l": state[f"{site.key}.vector"] for site in backbone.anatomy.linear("ff_out")}
    for path, sites in _by_path(backbone.anatomy.linear("k", "v")).items():
        whole = torch.ones(_width(backbone, sites[0]), 1)
        for site in sites:
            whole[slice(*site.columns) if site.columns else slice(None), 0] = state[f"{site.key}.vector"][0]
        written[f"{ROOT}{path}.ia3_l"] = whole
    return written


def _ia3_method(settings: dict[str, Any], backbone: Backbone) -> IA3:
    ours = {site.path for site in backbone.anatomy.linear("k", "v", "ff_out")}
    if {site.path for site in _sites_of(settings.get("target_modules"), backbone)} != ours:
        raise InputError(f"target_modules={settings['target_modules']}: (IA)^3 here scales keys, values and ff_out")
    return IA3(name="ia3")


def _ia3_read(method: IA3, backbone: Backbone, state: State) -> State:
    read = {}
    for site in backbone.anatomy.linear("k", "v", "ff_out"):
        vector = state[f"{ROOT}{site.path}.ia3_l"].reshape(1, -1)
        read[f"{site.key}.vector"] = vector[:, slice(*site.columns) if site.columns else slice(None)]
    return read


# LoRA -----------------------------------------------------------------------------------------------------------------


def _lora_settings(method: LoRA, backbone: Backbone) -> dict[str, Any]:
    grouped = _by_path(backbone.anatomy.linear(*method.targets))
    slices = {path: len(sites) for path, sites in grouped.items() if sites[0].columns}
    return {
        "target_modules": _target_names(backbone, list(grouped)),
        "r": method.rank,
        "lora_alpha": method.alpha,
        "rank_pattern": {path: count * method.rank for path, count in slices.items()},
        "alpha_pattern": {path: count * method.alpha for path, count in slices.items()},
        "fan_in_fan_out": _is_transposed(backbone),
        "adaptbench_targets": list(method.targets),
    }


def _lora_write(method: LoRA, backbone: Backbone, state: State) -> State:
    written = {}
    for path, sites in _by_path(backbone.anatomy.linear(*method.targets)).items():
        b = torch.zeros(_width(backbone, sites[0]), method.rank * len(sites))
        for index, site in enumerate(sites):
            ranks = slice(index * method.rank, (index + 1) * method.rank)
            b[slice(*site.columns) if site.columns else slice(None), ranks] = state[f"{site.key}.b"].T
        written[f"{ROOT}{path}.lora_A.weight"] = torch.cat([state[f"{site.key}.a"].T for site in sites])
        written[f"{ROOT}{path}.lora_B.weight"] = b
    return written


def _lora_method(settings: dict[str, Any], backbone: Backbone) -> LoRA:
    unknown = [name for name in ("use_dora", "use_rslora", "modules_to_save") if settings.get(name)]
    if "adaptbench_targets" not in settings:
        unknown += [name for name in ("rank_pattern", "alpha_pattern", "layers_to_transform") if settings.get(name)]
    if unknown or settings.get("bias", "none") != "none":
        raise InputError(f"LoRA with {', '.join(unknown) or 'bias'} has no counterpart here")
    sites = _sites_of(settings.get("target_modules"), backbone)
    if any(site.columns for site in sites) and "adaptbench_targets" not in settings:
        raise InputError("LoRA on a fused projection has a counterpart here only if it was exported from here")
    targets = settings.get("adaptbench_targets") or list(dict.fromkeys(site.role for site in sites))
    return LoRA(name="lora", rank=settings["r"], alpha=float(settings["lora_alpha"]), targets=targets)


def _lora_read(method: LoRA, backbone: Backbone, state: State) -> State:
    read = {}
    for path, sites in _by_path(backbone.anatomy.linear(*method.targets)).items():
        a, b = state[f"{ROOT}{path}.lora_A.weight"], state[f"{ROOT}{path}.lora_B.weight"]
        for index, site in enumerate(sites):
            ranks = slice(index * method.rank, (index + 1) * method.rank)
            read[f"{site.key}.a"] = a[ranks].T
            read[f"{site.key}.b"] = b[slice(*site.columns) if site.columns else slice(None), ranks].T
    return read


# LayerNorm and prompt tuning ------------------------------------------------------------------------------------------


def _norm_settings(method: LayerNorm, backbone: Backbone) -> dict[str, Any]:
    return {"target_modules": _target_names(backbone, [site.path for site in backbone.anatomy.norms])}


def _norm_write(method: LayerNorm, backbone: Backbone, state: State) -> State:
    names = {name: name.rpartition(".") for name in state}
    return {f"{ROOT}{path}.ln_tuning_layers.{kind}": state[name][0] for name, (path, _, kind) in names.items()}


def _norm_read(method: LayerNorm, backbone: Backbone, state: State) -> State:
    return {name.removeprefix(ROOT).replace(".ln_tuning_layers.", "."): tensor[None] for name, tensor in state.items()}


def _prompt_settings(method: PromptTuning, backbone: Backbone) -> dict[str, Any]:
    if method.decoder and backbone.is_encoder_decoder:
        raise InputError("method.decoder=true: PEFT's prompt tuning knows the encoder's virtual tokens only")
    return {
        "num_virtual_tokens": method.virtual_tokens,
        "token_dim": backbone.anatomy.embeddings[0].width,
        "num_transformer_submodules": 1,
        "num_attention_heads": backbone.anatomy.attentions[0].heads,
        "num_layers": len({site.path for site in backbone.anatomy.attentions}),
        "prompt_tuning_init": "RANDOM",
    }


def _prompt_write(method: PromptTuning, backbone: Backbone, state: State) -> State:
    return {"prompt_embeddings": state[f"prompt.{backbone.anatomy.embeddings[0].kind}.vectors"]}


def _prompt_method(settings: dict[str, Any], backbone: Backbone) -> PromptTuning:
    return PromptTuning(name="prompt", virtual_tokens=settings["num_virtual_tokens"], decoder=False)


def _prompt_read(method: PromptTuning, backbone: Backbone, state: State) -> State:
    vectors = state["prompt_embeddings"][: method.virtual_tokens]  # PEFT may keep a second, unused half
    return {f"prompt.{backbone.anatomy.embeddings[0].kind}.vectors": vectors}


FORMATS = {
    "ia3": Format("IA3", _ia3_settings, _ia3_write, _ia3_method, _ia3_read),
    "lora": Format("LORA", _lora_settings, _lora_write, _lora_method, _lora_read),
    "layernorm": Format("LN_TUNING", _norm_settings, _norm_write, lambda *_: LayerNorm(name="layernorm"), _norm_read),
    "prompt": Format("PROMPT_TUNING", _prompt_settings, _prompt_write, _prompt_method, _prompt_read),
}
