"""Two shallow counts give the deep one, whatever the architecture and method."""

from dataclasses import replace

import pytest
from transformers import AutoConfig

from adaptbench.costs import pricer
from adaptbench.costs.depth import shallow, with_layers
from adaptbench.costs.lengths import Lengths
from adaptbench.costs.meta import MetaRun
from adaptbench.costs.quote import PlannedCell, spent
from adaptbench.errors import InputError
from adaptbench.methods import METHODS, Adaptation
from adaptbench.models.backbone import Backbone, meta_backbone
from adaptbench.models.encoders import meta_encoder
from adaptbench.tasks.classification import Classification
from tests.factories import recipe
from tests.methods.roster import ON_LANGUAGE_MODELS

WIDTHS = {"hidden_size": 32, "num_hidden_layers": 7, "num_attention_heads": 4}
SHAPES: dict[str, dict[str, object]] = {
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 7, "num_heads": 4, "feed_forward_proj": "gated-gelu"},
    "llama": {**WIDTHS, "intermediate_size": 48},
    "qwen3": {**WIDTHS, "intermediate_size": 48},
    "gpt2": {"n_embd": 32, "n_layer": 7, "n_head": 4},
    "opt": {**WIDTHS, "ffn_dim": 48, "word_embed_proj_dim": 32},
}
CASES = [
    (kind, name) for kind in SHAPES for name in ON_LANGUAGE_MODELS if kind in ("t5", "llama") or name in ("icl", "lora")
]


def deep(kind: str, **changes: object) -> Backbone:
    heads = {"num_key_value_heads": 2, "head_dim": 8} if kind in ("llama", "qwen3") else {}
    shape = {"model_type": kind, "vocab_size": 99, **SHAPES[kind], **heads, **changes}
    assert AutoConfig.for_model(**shape).num_hidden_layers == 7
    return meta_backbone(kind, "", "float32", shape)


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_counts_by_depth_are_exact(kind, name, monkeypatch):
    cell = PlannedCell(METHODS[name](), deep(kind), recipe(), Lengths(5, 2, 3, 4), shots=3)
    by_depth = spent(cell)
    # The share of a FISH mask is rounded over the whole model, so its counts need not be linear in depth.
    assert (cell.prices._shallow is None) == (name == "fish_mask")
    monkeypatch.setattr(pricer, "shallow", lambda backbone: None)
    assert spent(replace(cell)) == by_depth


@pytest.mark.parametrize("kind", ["bert", "roberta", "llama"])
@pytest.mark.parametrize("name", ["lora", "full_ft", "linear_probe", "unipelt_paper", "prompt"])
def test_counts_by_depth_are_exact_under_a_head(kind, name, monkeypatch):
    if (kind, name) == ("llama", "unipelt_paper"):
        pytest.skip("refused: its gates look ahead")
    shape = {"model_type": kind, "vocab_size": 99, **WIDTHS, "intermediate_size": 48}
    backbone, task = meta_encoder(kind, "", "float32", shape), Classification(3)
    cell = PlannedCell(METHODS[name](), backbone, recipe(), Lengths(5, 2, 3, 4).of_kind(task), shots=3, task=task)
    by_depth = spent(cell)
    assert cell.prices._shallow is not None
    monkeypatch.setattr(pricer, "shallow", lambda backbone: None)
    assert spent(replace(cell)) == by_depth


def test_what_only_fits_the_whole_model_is_counted_whole():
    """SAID's subspace may have more dimensions than a shallow copy has coordinates."""
    method = METHODS["intrinsic_said"](dimension=4000)
    with pytest.raises(InputError, match="read only"):
        method.prepare(with_layers(deep("llama"), 2), seeds=[0])
    found = spent(PlannedCell(method, deep("llama"), recipe(), Lengths(5, 2, 3, 4), shots=3))
    assert found.trainable >= 4000
    assert found.adapt.measured > 0


def test_unequal_halves_and_shallow_models_are_counted_whole():
    assert shallow(deep("t5", num_decoder_layers=5)) is None
    assert shallow(with_layers(deep("llama"), 4)) is None
    assert shallow(deep("llama")) is not None


def test_what_is_not_linear_in_depth_is_not_extrapolated(monkeypatch):
    """A method whose parameters do not follow the line is counted on the whole model."""
    run = MetaRun.of(METHODS["lora"](), deep("llama"), recipe())
    monkeypatch.setattr(
        Adaptation, "trainable", property(lambda adaptation: len(adaptation.backbone.anatomy.attentions) ** 2)
    )
    assert pricer.Pricer(run)._shallow is None


def test_a_shallow_copy_differs_in_nothing_else():
    whole, shallow = deep("qwen3"), with_layers(deep("qwen3"), 1)
    assert len(shallow.anatomy.attentions) == 1
    assert shallow.model.config.hidden_size == whole.model.config.hidden_size
    assert shallow.device.type == "meta"
