"""Adapters in Hugging Face PEFT's format: `adapter_model.safetensors` and `adapter_config.json`, out and in.

Written and read without the `peft` package. Parts of a fused projection (GPT-2's query-key-value), which PEFT knows
as one module, become one vector with ones elsewhere ((IA)^3), or one block-diagonal update of several ranks (LoRA).

What is read back must be the whole file: every tensor has the name and shape that would be written from here, and
written again from what was read it has the same values.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from adaptbench.errors import InputError
from adaptbench.methods.base import Adaptation, Method, PeftMethod
from adaptbench.methods.checkpoints import read_json
from adaptbench.methods.ia3 import IA3
from adaptbench.methods.layernorm import LayerNorm
from adaptbench.methods.lora import LoRA
from adaptbench.methods.peft_settings import (
    Settings,
    check_settings,
    is_feedforward,
    number,
    sites_of,
    targeted,
    truth,
    whole_number,
)
from adaptbench.methods.prompt import PromptTuning
from adaptbench.methods.tensor_files import check_tensors, listed, read_tensors, shown
from adaptbench.models.backbone import Backbone
from adaptbench.models.hooks import rows
from adaptbench.models.sites import LinearSite

State = dict[str, Tensor]
ROOT = "base_model.model."


@dataclass(frozen=True)
class Format:
    """How one method's state is written in PEFT's names and shapes, and read again."""

    peft_type: str
    settings: Callable[[Any, Backbone], dict[str, Any]]
    write: Callable[[Any, Backbone, State], State]
    method: Callable[[Settings, Backbone], PeftMethod]
    read: Callable[[Any, Backbone, State], State]
    used: Callable[[Settings, State], State] = lambda _settings, state: state  # without what PEFT never reads


def export_peft(method: Method, adaptation: Adaptation, folder: Path, run: int = 0) -> None:
    """Write one run as a PEFT checkpoint.

    Raises:
        InputError: PEFT has no such method, or not this form of it.
    """
    form = FORMATS.get(method.kind)
    if form is None or adaptation.delta is None:
        raise InputError(
            f"method={method.name}: no counterpart in PEFT is written here; those of {', '.join(FORMATS)} are"
        )
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
        InputError: a type, setting, tensor or value without counterpart here.
    """
    settings = read_json(folder / "adapter_config.json")
    forms = {form.peft_type: form for form in FORMATS.values()}
    kind = settings.get("peft_type")
    if not isinstance(kind, str) or kind not in forms:
        raise InputError(f"{folder}: peft_type={shown(kind)}: expected one of {', '.join(forms)}")
    form, weights = forms[kind], folder / "adapter_model.safetensors"
    if not weights.is_file() and weights.with_suffix(".bin").exists():
        raise InputError(f"{folder}: adapter_model.bin is a pickle, which can run code; save it again as safetensors")
    try:
        check_settings(settings)
        method = form.method(settings, backbone)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    state = form.used(settings, read_tensors(weights))
    with torch.device("meta"):
        expected = form.write(method, backbone, method.delta(backbone.anatomy, runs=1).state_of(0))
    check_tensors(state, expected, folder, f"{kind} on {backbone.name}")
    adaptation = method.prepare(backbone, seeds=[0])
    assert adaptation.delta is not None
    adaptation.delta.load_state_of(0, form.read(method, backbone, state))
    again = form.write(method, backbone, adaptation.delta.state_of(0))
    if lost := [name for name in state if not torch.equal(again[name], state[name].to(again[name].dtype))]:
        raise InputError(f"{folder}: {listed(lost)} changes parts of a module that {method.kind} here leaves alone")
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
            whole[rows(whole, site.columns), 0] = state[f"{site.key}.vector"][0]
        written[f"{ROOT}{path}.ia3_l"] = whole
    return written


def _ia3_method(settings: Settings, backbone: Backbone) -> IA3:
    inner = {site.path for site in backbone.anatomy.linear("ff_out")}
    ours = {site.path for site in backbone.anatomy.linear("k", "v")} | inner
    paths = targeted(settings, backbone)
    if paths != ours:
        raise InputError(
            f"target_modules={shown(settings['target_modules'])}: (IA)^3 here scales keys, values and the input of the"
            f" last feed-forward map, and this differs at {listed(paths ^ ours)}"
        )
    if wrong := {path for path in paths if is_feedforward(settings, path) != (path in inner)}:
        raise InputError(
            f"feedforward_modules={shown(settings['feedforward_modules'])}: (IA)^3 here scales the input of the last"
            f" feed-forward map and the outputs of keys and values, and this differs at {listed(wrong)}"
        )
    return IA3(name="ia3")


def _ia3_read(method: IA3, backbone: Backbone, state: State) -> State:
    read = {}
    for site in backbone.anatomy.linear("k", "v", "ff_out"):
        vector = state[f"{ROOT}{site.path}.ia3_l"].reshape(-1)
        read[f"{site.key}.vector"] = vector[None, rows(vector, site.columns)]
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
            b[rows(b, site.columns), ranks] = state[f"{site.key}.b"].T
        written[f"{ROOT}{path}.lora_A.weight"] = torch.cat([state[f"{site.key}.a"].T for site in sites])
        written[f"{ROOT}{path}.lora_B.weight"] = b
    return written


def _lora_method(settings: Settings, backbone: Backbone) -> LoRA:
    sites = sites_of(settings, backbone)
    targets = settings.get("adaptbench_targets")
    if targets is None:
        targets = list(dict.fromkeys(site.role for site in sites))
        if fused := {site.path for site in sites if site.columns is not None}:
            raise InputError(
                f"target_modules={shown(settings['target_modules'])}: LoRA on a fused projection ({listed(fused)}) has"
                " a counterpart here only if it was exported from here"
            )
    elif not isinstance(targets, list) or not all(isinstance(role, str) for role in targets):
        raise InputError(f"adaptbench_targets={shown(targets)}: expected a list of roles")
    elif {site.path for site in backbone.anatomy.linear(*targets)} != {site.path for site in sites}:
        raise InputError(f"adaptbench_targets={shown(targets)}: these are other modules than target_modules names")
    rank, alpha = whole_number(settings, "r"), number(settings, "lora_alpha")
    if truth(settings, "use_rslora"):  # PEFT then multiplies by alpha / sqrt(rank), and LoRA here by alpha / rank
        alpha *= math.sqrt(rank)
    method = LoRA(name="lora", rank=rank, alpha=alpha, targets=targets)
    ours = _lora_settings(method, backbone)
    for pattern in ("rank_pattern", "alpha_pattern"):
        if (settings.get(pattern) or {}) != ours[pattern]:
            given = f"{pattern}={shown(settings.get(pattern))}"
            raise InputError(f"{given}: LoRA here has one rank and one alpha, so expected {shown(ours[pattern])}")
    return method


def _lora_read(method: LoRA, backbone: Backbone, state: State) -> State:
    read = {}
    for path, sites in _by_path(backbone.anatomy.linear(*method.targets)).items():
        a, b = state[f"{ROOT}{path}.lora_A.weight"], state[f"{ROOT}{path}.lora_B.weight"]
        for index, site in enumerate(sites):
            ranks = slice(index * method.rank, (index + 1) * method.rank)
            read[f"{site.key}.a"] = a[ranks].T
            read[f"{site.key}.b"] = b[rows(b, site.columns), ranks].T
    return read


# LayerNorm and prompt tuning ------------------------------------------------------------------------------------------


def _norm_settings(method: LayerNorm, backbone: Backbone) -> dict[str, Any]:
    return {"target_modules": _target_names(backbone, [site.path for site in backbone.anatomy.norms])}


def _norm_method(settings: Settings, backbone: Backbone) -> LayerNorm:
    if differing := targeted(settings, backbone) ^ {site.path for site in backbone.anatomy.norms}:
        raise InputError(
            f"target_modules={shown(settings['target_modules'])}: LayerNorm tuning here trains all layer norms and"
            f" nothing else, and this differs at {listed(differing)}"
        )
    return LayerNorm(name="layernorm")


def _norm_write(method: LayerNorm, backbone: Backbone, state: State) -> State:
    names = {name: name.rpartition(".") for name in state}
    return {f"{ROOT}{path}.ln_tuning_layers.{kind}": state[name][0] for name, (path, _, kind) in names.items()}


def _norm_read(method: LayerNorm, backbone: Backbone, state: State) -> State:
    return {name.removeprefix(ROOT).replace(".ln_tuning_layers.", "."): tensor[None] for name, tensor in state.items()}


def _check_embedding(backbone: Backbone) -> None:
    """PEFT looks words up itself, and a model that multiplies what it looks up (Marian) no longer does so."""
    if (scale := backbone.anatomy.embeddings[0].scale) != 1:
        raise InputError(f"{backbone.name}: with a prompt PEFT leaves out the {scale:.3g} that multiplies embeddings")


def _prompt_settings(method: PromptTuning, backbone: Backbone) -> dict[str, Any]:
    _check_embedding(backbone)
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


def _prompt_method(settings: Settings, backbone: Backbone) -> PromptTuning:
    _check_embedding(backbone)
    task, most = ("SEQ_2_SEQ_LM", 2) if backbone.is_encoder_decoder else ("CAUSAL_LM", 1)
    if settings.get("task_type") != task:  # with another, PEFT puts the prompt elsewhere or nowhere
        raise InputError(f"task_type={shown(settings.get('task_type'))}: expected {task} for {backbone.name}")
    if (parts := _prompt_parts(settings)) > most:
        raise InputError(f"num_transformer_submodules={parts}: expected at most {most} for {backbone.name}")
    return PromptTuning(name="prompt", virtual_tokens=whole_number(settings, "num_virtual_tokens"), decoder=False)


def _prompt_parts(settings: Settings) -> int:
    """How many times as many vectors as virtual tokens PEFT stores: by its default two in an encoder-decoder."""
    if settings.get("num_transformer_submodules") is None:
        return 2 if settings["task_type"] == "SEQ_2_SEQ_LM" else 1
    return whole_number(settings, "num_transformer_submodules")


def _prompt_used(settings: Settings, state: State) -> State:
    """The first virtual tokens: PEFT stores vectors for the decoder too, and reads only the encoder's."""
    stored = settings["num_virtual_tokens"] * _prompt_parts(settings)
    if "prompt_embeddings" not in state or state["prompt_embeddings"].shape[:1] != (stored,):
        return state
    return {**state, "prompt_embeddings": state["prompt_embeddings"][: settings["num_virtual_tokens"]]}


def _prompt_read(method: PromptTuning, backbone: Backbone, state: State) -> State:
    return {f"prompt.{backbone.anatomy.embeddings[0].kind}.vectors": state["prompt_embeddings"]}


FORMATS = {
    "ia3": Format("IA3", _ia3_settings, _ia3_write, _ia3_method, _ia3_read),
    "lora": Format("LORA", _lora_settings, _lora_write, _lora_method, _lora_read),
    "layernorm": Format("LN_TUNING", _norm_settings, _norm_write, _norm_method, _norm_read),
    "prompt": Format("PROMPT_TUNING", _prompt_settings, _prompt_write, _prompt_method, _prompt_read, _prompt_used),
}
