"""UniPELT as published: its formulas on a BERT computed by hand, its published sizes, and no influence of padding."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import gelu

from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.models.anatomy import anatomy_of
from adaptbench.models.encoders import hidden_states, meta_encoder
from adaptbench.models.tokens import mean_over_tokens

KIND = METHODS["unipelt_paper"]
SMALL = {"reduction": 4, "rank": 2, "virtual_tokens": 3, "hidden": 8}
ROBERTA = {"model_type": "roberta", "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1}
VARIANTS = {
    "unipelt": KIND(name="unipelt_paper", **SMALL),
    "with a prompt": KIND(name="unipelt_paper_pt", **SMALL, prompt_tokens=2),
    "with (IA)^3": KIND(name="unipelt_ia3", **SMALL, scales=True),
    "stacked": KIND(name="unipelt_stack3", **SMALL, stack=3),
    "stacked with (IA)^3": KIND(name="unipelt_stack3", **SMALL, scales=True, stack=2),
}


@pytest.fixture
def exact(bare):
    torch.set_default_dtype(torch.float64)
    encoder = bare("bert")
    yield replace(encoder, model=copy.deepcopy(encoder.model).double(), dtype=torch.float64)
    torch.set_default_dtype(torch.float32)


def lively(adaptation):
    """All parameters away from where they start."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adaptation.delta.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    return adaptation


def texts(lengths=(7, 4), width=7):
    source = (torch.arange(len(lengths) * width).view(len(lengths), width) * 7) % 90 + 5
    mask = torch.arange(width) < torch.tensor(lengths)[:, None]
    return torch.where(mask, source, 0), mask


def states(adaptation, source, mask):
    with adaptation.attached(), torch.no_grad():
        return hidden_states(adaptation.backbone, source, mask)


def by_hand(encoder, adaptation, ids):
    """(S, D): one text without padding, layer by layer, as the formulas say."""
    model, pieces = encoder.model, dict(adaptation.delta.pieces.items())
    config, embeddings = model.config, model.embeddings
    heads, width = config.num_attention_heads, config.hidden_size // config.num_attention_heads
    words = embeddings.word_embeddings(ids)
    if "prompt/encoder" in pieces:
        words = torch.cat([pieces["prompt/encoder"].vectors[0], words])
    length = len(words)
    places = embeddings.position_embeddings.weight[:length] + embeddings.token_type_embeddings.weight[0]
    h = embeddings.LayerNorm(words + places)

    def gate(g, x):
        return torch.sigmoid(x @ g.weight[0] + g.bias[0]).mean()

    def changed(name, x):
        own, piece = model.get_submodule(name)(x), pieces.get(name.replace(".", "/"))
        if piece is None:
            return own
        update = x
        for level in piece.levels:
            if hasattr(level, "vector"):
                own = own * level.vector[0] * gate(level.gate, x)
            else:
                update = gate(level.gate, x) * (update @ level.a[0] @ level.b[0])
        return own if update is x else own + update

    for layer in range(config.num_hidden_layers):
        path = f"encoder.layer.{layer}"
        q, k, v = (changed(f"{path}.attention.self.{name}", h) for name in ("query", "key", "value"))
        prefix = pieces[f"{path}/attention/self".replace(".", "/")]
        keys, values = k, v
        for number, level in enumerate(prefix.levels):
            shared = pieces[f"prefix_{number}"]
            inner = torch.tanh(shared.embedding[0] @ shared.weight[0] + shared.bias[0])
            flat = (inner @ level.weight[0] + level.bias[0]).view(len(inner), 2, heads * width)
            g = gate(level.gates, h)
            keys, values = torch.cat([g * flat[:, 0], keys]), torch.cat([g * flat[:, 1], values])
        split = [t.view(len(t), heads, width).transpose(0, 1) for t in (q, keys, values)]
        weights = (split[0] @ split[1].transpose(1, 2) / width**0.5).softmax(-1)
        attended = (weights @ split[2]).transpose(0, 1).reshape(length, -1)
        block = model.get_submodule(path)
        h = block.attention.output.LayerNorm(block.attention.output.dense(attended) + h)
        fed = block.output.dense(gelu(changed(f"{path}.intermediate.dense", h)))
        norm, left = block.output.LayerNorm, fed + h
        for adapter in pieces[f"{path}/output/LayerNorm".replace(".", "/")].levels:
            x = norm(left)
            up = torch.relu(x @ adapter.down[0] + adapter.down_bias[0]) @ adapter.up[0] + adapter.up_bias[0]
            left = left + gate(adapter.gate, x) * up
        h = norm(left)
    return h


@pytest.mark.parametrize("name", VARIANTS)
def test_it_computes_its_formulas(exact, name):
    adaptation = lively(VARIANTS[name].prepare(exact, [3]))
    virtual = adaptation.backbone.virtual_tokens
    source, mask = texts((7,))
    before = torch.tensor([[-1 - k for k in range(virtual)]], dtype=torch.long)
    given = torch.cat([before, source], 1), torch.cat([before < 0, mask], 1)
    with torch.no_grad():
        torch.testing.assert_close(
            states(adaptation, *given)[0], by_hand(exact, adaptation, source[0]), atol=1e-8, rtol=0
        )


@pytest.mark.parametrize("name", VARIANTS)
def test_padding_and_company_change_nothing(exact, name):
    """Each run alone and both at once, each text alone and in a batch that is padded to twice its length."""
    together = lively(VARIANTS[name].prepare(exact, [3, 4]))
    source, mask = texts((7, 4), 9)
    both = states(together, source.repeat(2, 1), mask.repeat(2, 1)).view(2, 2, 9, -1)
    for run in range(2):
        alone = VARIANTS[name].prepare(exact, [3])
        alone.delta.load_state_of(0, together.delta.state_of(run))
        for row, length in enumerate((7, 4)):
            own = states(alone, source[row : row + 1, :length], mask[row : row + 1, :length])
            torch.testing.assert_close(both[run, row, :length], own[0], atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_parameter_learns_and_what_is_kept_computes_the_same(exact, name):
    adaptation = lively(VARIANTS[name].prepare(exact, [3]))
    source, mask = texts()
    with adaptation.attached():
        out = hidden_states(adaptation.backbone, source, mask)
        virtual = [p for n, p in adaptation.delta.named_parameters() if "prompt" in n]
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    for parameter in adaptation.delta.parameters():
        if not any(parameter is p for p in virtual):  # no text here begins with virtual tokens
            assert parameter.grad.abs().max() > 0
    kept = adaptation.for_inference()
    torch.testing.assert_close(states(kept, source, mask), out.detach(), atol=1e-9, rtol=0)
    assert not any("prefix" in key.split(".")[0] for key in kept.delta.state_of(0))


@pytest.mark.parametrize(
    ("settings", "trained", "stored"),
    [
        ({}, 11_083_376, 1_410_672),
        ({"prompt_tokens": 10}, 11_091_056, 1_410_672 + 7_680),
        ({"scales": True}, 10_852_988, 10_852_988 - 9_857_024 + 184_320),
        ({"stack": 3}, 33_250_128, 3 * 1_410_672),
    ],
)
def test_sizes_on_roberta_base_are_the_published_ones(settings, trained, stored):
    """arXiv 2405.05493's counts, in which the prefix's network, folded away after training, is nine tenths."""
    delta = KIND(name="unipelt_paper", **settings).prepare(meta_encoder("roberta", "roberta", shape=ROBERTA), [0]).delta
    assert delta.parameters_per_run == trained
    assert delta.for_inference().parameters_per_run == stored


def test_other_models_are_refused(bare):
    for name in ("llama", "t5", "deberta_v3"):
        with pytest.raises(InputError, match=r"^method=unipelt_paper: gates are means over a whole text[^\n]+$"):
            VARIANTS["unipelt"].prepare(bare(name), [0])
    assert VARIANTS["unipelt"].prepare(bare("roberta"), [0]).trainable > 0


def test_stacked_lora_stays_where_it_starts(exact):
    """A chain of updates whose B are all zero is a saddle: a property of the Adapters library's stacks, kept here."""
    for stack, moves in ((1, True), (3, False)):
        adaptation = KIND(name="unipelt_stack3", **SMALL, stack=stack).prepare(exact, [3])
        with adaptation.attached():
            hidden_states(adaptation.backbone, *texts()).square().sum().backward()
        largest = max(
            parameter.grad.abs().max()
            for name, parameter in adaptation.delta.named_parameters()
            if name.endswith((".a", ".b"))
        )
        assert (largest > 0) == moves


def test_a_mean_over_texts_needs_to_know_them():
    with pytest.raises(RuntimeError, match="tokens_at"):
        mean_over_tokens(torch.ones(1, 3, 1))


def test_the_site_is_the_norm_after_a_feed_forward(bare):
    encoder = bare("roberta")
    for site in anatomy_of(encoder.model).sublayers:
        if site.role == "ff_norm":
            assert isinstance(encoder.model.get_submodule(site.path), nn.LayerNorm)
            assert site.path.endswith("output.LayerNorm")
            assert "attention" not in site.path
