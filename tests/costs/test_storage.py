"""The size of files nobody has written, against files that somebody has."""

import pytest
from safetensors.torch import save_file

from adaptbench.costs.storage import safetensors_bytes, stored_bytes
from adaptbench.methods import METHODS
from adaptbench.methods.contexts import Contexts
from tests.conftest import ARCHITECTURES
from tests.methods.roster import ON_LANGUAGE_MODELS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize(
    "kind", [kind for kind in ON_LANGUAGE_MODELS if kind != "hf_peft"]
)  # PEFT writes files of its own
def test_priced_storage_is_the_size_of_the_files(backbones, tmp_path, architecture, kind):
    backbone, method = backbones[architecture], METHODS[kind](name=kind)
    real = method.prepare(backbone, seeds=[0])
    if real.contexts is not None:
        real.contexts = [Contexts(stored=tuple(range(77)))]
    written = method.save(real, tmp_path / "x", 0)
    meta = method.prepare(backbone.on_meta(), seeds=[0])
    slack = 64 if kind == "fish_mask" else 0  # without weights nobody knows which tensors the chosen values lie in
    assert abs(stored_bytes(method, meta, context=77) - written) <= slack


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_network_that_is_folded_away_after_training_is_not_stored(backbones, tmp_path, architecture):
    backbone, method = backbones[architecture], METHODS["prefix"](name="prefix", hidden=16)
    real = method.prepare(backbone, seeds=[0])
    written = method.save(real.for_inference(), tmp_path / "x", 0)
    assert stored_bytes(method, method.prepare(backbone.on_meta(), seeds=[0]), context=0) == written
    assert sum(parameter.numel() for parameter in real.parameters) > 1.5 * real.trainable


def test_a_peft_tuner_is_priced_by_what_it_trains(backbones, tmp_path):
    """PEFT's files are its own; the weights in them are the price, give or take its configuration."""
    pytest.importorskip("peft")
    backbone, method = backbones["llama"], METHODS["hf_peft"](name="hf_peft")
    written = method.save(method.prepare(backbone, seeds=[0]), tmp_path / "x", 0)
    meta = method.prepare(backbone.on_meta(), seeds=[0])
    assert stored_bytes(method, meta, context=0) == pytest.approx(written, rel=0.25)


def test_header_is_that_of_the_format(backbones, tmp_path):
    state = {name: p.detach().clone() for name, p in backbones["gpt2"].model.named_parameters()}
    state["half"] = state["transformer.wte.weight"].bfloat16()
    save_file(state, tmp_path / "x.safetensors")
    assert safetensors_bytes(state) == (tmp_path / "x.safetensors").stat().st_size
