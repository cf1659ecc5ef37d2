"""Each method against a direct re-computation of its formula: logits and gradients, in double precision.

The re-computation replaces modules of a copy of the model by a few lines written out here.
"""

import copy
import math

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

from adaptbench.methods.fish_mask import delta_of
from adaptbench.models.anatomy import anatomy_of
from adaptbench.models.attention import IMPLEMENTATION
from tests.conftest import ARCHITECTURES, tiny_model
from tests.methods.roster import VARIANTS

EVERY = ("t5", "llama", "gpt2", "opt", "bert", "roberta")


class Replaced(nn.Module):
    """A module computed anew by `compute(module, *inputs)`."""

    def __init__(self, base, compute):
        super().__init__()
        self.base, self.compute = base, compute

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.base, name)

    def forward(self, *inputs, **named):
        return self.compute(self.base, *inputs, **named)


def linear(model, site, change_output=lambda y, x: y, change_input=lambda x: x):
    """Replace a linear map, or a slice of its outputs."""

    def compute(base, x):
        y = base(change_input(x))
        if site.columns is None:
            return change_output(y, x)
        start, stop, _ = site.columns
        return torch.cat([y[..., :start], change_output(y[..., start:stop], x), y[..., stop:]], -1)

    put(model, site.path, compute)


def first_output(model, site, change):
    def compute(base, *inputs, **named):
        y = base(*inputs, **named)
        return (change(y[0]), *y[1:]) if isinstance(y, tuple) else change(y)

    put(model, site.path, compute)


def put(model, path, compute):
    parent, _, name = path.rpartition(".")
    owner = model.get_submodule(parent)
    setattr(owner, name, Replaced(getattr(owner, name), compute))


def norm(model, site, weight, bias=None):
    def compute(base, x):
        if isinstance(base, nn.RMSNorm):
            return x / (x.square().mean(-1, keepdim=True) + base.eps).sqrt() * weight
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + base.eps).sqrt() * weight + bias

    put(model, site.path, compute)


def ia3(model, anatomy, p, _):
    for site in anatomy.linear("ff_out"):
        linear(model, site, change_input=lambda x, s=site: x * p[f"{s.key}.vector"])
    for site in anatomy.linear("k", "v"):
        linear(model, site, lambda y, x, s=site: y * p[f"{s.key}.vector"])


def lora(model, anatomy, p, method):
    scaling = method.alpha / method.rank
    for site in anatomy.linear(*method.targets):
        linear(model, site, lambda y, x, s=site: y + scaling * (x @ p[f"{s.key}.a"] @ p[f"{s.key}.b"]))


def bitfit(model, anatomy, p, method):
    for site in anatomy.linear(*method.targets):
        linear(model, site, lambda y, x, s=site: y + p[f"{s.key}.bias"])


def adapter(model, anatomy, p, method):
    roles = {"houlsby": ("self", "cross", "ff"), "tfew": ("ff",), "pfeiffer": ("block",)}[method.placement]
    for site in reversed([site for site in anatomy.sublayers if site.role in roles]):

        def change(h, path=site.path):
            inner = torch.relu(h @ p[f"{path}.down"] + p[f"{path}.down_bias"])
            return h + inner @ p[f"{path}.up"] + p[f"{path}.up_bias"]

        first_output(model, site, change)


def compacter(model, anatomy, p, method):
    def layer(x, name):
        terms = zip(*(p[f"{name}.{part}"] for part in ("rule", "left", "right")), strict=True)
        return x @ sum(torch.kron(rule, left @ right) for rule, left, right in terms) + p[f"{name}.bias"]

    for site in reversed([site for site in anatomy.sublayers if site.role in method.after]):
        first_output(
            model,
            site,
            lambda h, path=site.path: h + layer(torch.relu(layer(h, f"{path}.down")), f"{path}.up"),
        )


def hadamard(length):
    matrix = torch.ones(1, 1)
    while len(matrix) < length:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), matrix)
    return matrix


def intrinsic_said(model, anatomy, p, method):
    """Every projection as a dense matrix P, from the signs, permutation and normal numbers the method drew."""
    subspace, sites = p["piece"], [*anatomy.linears, *anatomy.norms]
    theta, scale = p["subspace.theta"], p["subspace.scale"]
    read = 0
    for index, site in enumerate(sites):
        size = site.d_in + site.d_out if hasattr(site, "d_in") else site.width
        length = 2 ** math.ceil(math.log2(size))
        place = subspace.groups[length].index(index)
        signs = getattr(subspace, f"sign_{length}")[0, place].diag()
        permutation = torch.eye(length)[getattr(subspace, f"order_{length}")[0, place]]
        gauss = getattr(subspace, f"gauss_{length}")[0, place]
        projection = hadamard(length) @ gauss.diag() @ permutation @ hadamard(length) @ signs
        projection = projection[:size] / (math.sqrt(size) * gauss.norm())
        span = min(length, len(theta))
        seen = torch.stack([theta[(read + k) % len(theta)] for k in range(span)])
        vector = projection[:, :span] @ seen
        read += span
        if hasattr(site, "d_in"):
            u, v = vector[: site.d_out] * scale[index], vector[site.d_out :]
            linear(model, site, lambda y, x, u=u, v=v: y + x @ torch.outer(u, v).T)
        else:
            own = model.get_submodule(site.path)
            norm(model, site, own.weight + scale[index] * vector, getattr(own, "bias", None))


def unipelt(model, anatomy, p, method):
    def gate(h, name):
        return torch.sigmoid(h @ p[f"{name}.weight"] + p[f"{name}.bias"])

    for site in anatomy.linear("q", "v"):
        name = site.key
        linear(
            model,
            site,
            lambda y, x, n=name: y + gate(x, f"{n}.gate") * (x @ p[f"{n}.a"] @ p[f"{n}.b"]),
        )
    for site in anatomy.sublayers:
        if site.role == "ff":

            def change(h, path=site.path):
                inner = torch.relu(h @ p[f"{path}.down"] + p[f"{path}.down_bias"])
                return h + gate(h, f"{path}.gate") * (inner @ p[f"{path}.up"] + p[f"{path}.up_bias"])

            first_output(model, site, change)


def prefix(model, anatomy, p, method):
    """Keys and values are in the attention function (`plain_attention`)."""


def reference(variant):
    return next(
        formula
        for kind, formula in {
            "adapter": adapter, "bitfit": bitfit, "compacter": compacter, "ia3": ia3, "lora": lora,
            "intrinsic": intrinsic_said, "unipelt": unipelt, "prefix": prefix, "layernorm": prefix, "prompt": prefix,
        }.items()
        if variant.startswith(kind)
    )  # fmt: skip


def plain_attention(prefixes, gates):
    """Softmax over [prefix; keys], as written; gated prefixes count g times as much, query by query."""

    def attend(module, query, key, value, mask, position_bias=None, scaling=None, **_):
        groups = query.shape[1] // key.shape[1]
        n, _, length, width = query.shape
        scaling = width**-0.5 if scaling is None else scaling
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        scores = query @ key.transpose(2, 3) * scaling
        if position_bias is not None:
            scores = scores + position_bias
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        elif getattr(module, "is_causal", False) and length > 1:
            scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
        if module not in prefixes:
            return (scores.softmax(-1) @ value).transpose(1, 2), None
        before_key, before_value = (
            states.expand(n, -1, -1, -1).repeat_interleave(groups, 1) for states in prefixes[module]
        )
        g = gates[module][:, None] if module in gates else torch.ones(n, 1, length, 1)
        before = g * (query @ before_key.transpose(2, 3)) * scaling
        p = torch.cat([before, scores], -1).softmax(-1)
        tokens = before_key.shape[2]
        return (g * (p[..., :tokens] @ before_value) + p[..., tokens:] @ value).transpose(1, 2), None

    return attend


@pytest.fixture
def double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def in_double_precision(architecture):
    """The library's own RMS norms compute in single precision whatever the model's; these do not."""
    model = tiny_model(architecture, 150).eval().requires_grad_(False)
    model.set_attn_implementation(IMPLEMENTATION)
    for site in anatomy_of(model).norms:
        owner, name = model.get_submodule(site.path.rpartition(".")[0]), site.path.rpartition(".")[2]
        if not site.has_bias:
            setattr(owner, name, nn.RMSNorm(site.width, eps=1e-6).requires_grad_(False))
    return model


def is_prompt(variant):
    return variant.endswith(("prompt", "_pt"))


CASES = [(v, a) for v in VARIANTS for a in EVERY if not (is_prompt(v) and a in ("bert", "roberta"))]


def with_virtual_tokens(ids, count):
    return torch.cat([-1 - torch.arange(count).expand(len(ids), -1), ids], 1)


@pytest.mark.parametrize(("variant", "architecture"), CASES)
def test_logits_and_gradients_equal_the_written_out_formula(double, architecture, variant, monkeypatch):
    method = VARIANTS[variant]
    model = in_double_precision(architecture)
    anatomy = anatomy_of(model)
    delta = method.delta(anatomy, 1).initialise([3], model)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in delta.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    ids = torch.randint(3, 150, (2, 7))
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids[:, :4]} if architecture == "t5" else {})}
    without = model(**inputs).logits
    # before the input, and before what a decoder reads
    virtual = method.virtual_token_counts() if is_prompt(variant) else (0, 0)
    room = dict(zip(("input_ids", "decoder_input_ids"), virtual, strict=True))
    with delta.attached(model):
        ours = model(**{name: with_virtual_tokens(tensor, room[name]) for name, tensor in inputs.items()}).logits
    weights = torch.randn_like(ours)
    (ours * weights).mean().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in delta.named_parameters()}
    delta.zero_grad()

    p = {name.removeprefix("pieces.").replace("/", "."): value[0] for name, value in delta.named_parameters()}
    if variant == "intrinsic_said":
        p["piece"] = delta.pieces["subspace"]
    other, prefixes, gates = copy.deepcopy(model), {}, {}
    for site in anatomy.attentions if variant.startswith(("prefix", "unipelt")) else ():
        piece, module = delta.pieces[site.path.replace(".", "/")], other.get_submodule(site.path)
        prefixes[module] = [states[0] for states in network(delta, site) or (piece.key, piece.value)]
        if variant.startswith("unipelt"):

            def remember(module, inputs, named, path=site.path):
                h = inputs[0] if inputs else named["hidden_states"]
                gates[module] = torch.sigmoid(h @ p[f"{path}.gates.weight"] + p[f"{path}.gates.bias"])

            module.register_forward_pre_hook(remember, with_kwargs=True)
    if method.layer_norms:
        for site in anatomy.norms:
            norm(other, site, p[f"{site.path}.weight"], p.get(f"{site.path}.bias"))
    reference(variant)(other, anatomy, p, method)
    monkeypatch.setitem(AttentionInterface._global_mapping, IMPLEMENTATION, plain_attention(prefixes, gates))
    if is_prompt(variant):  # vectors and embeddings put together by hand
        kinds = {"input_ids": "encoder" if architecture == "t5" else "decoder", "decoder_input_ids": "decoder"}
        embed = other.get_input_embeddings()
        inputs = {
            name.replace("input_ids", "inputs_embeds"): torch.cat(
                [p[f"prompt.{kinds[name]}.vectors"].expand(len(tensor), -1, -1), embed(tensor)], 1
            )
            for name, tensor in inputs.items()
        }
    theirs = other(**inputs).logits
    (theirs * weights).mean().backward()
    assert (ours - theirs).abs().max() < 1e-10
    assert (ours[:, -without.shape[1] :] - without).abs().max() > 1e-3
    for name, parameter in delta.named_parameters():
        assert (gradients[name] - parameter.grad).abs().max() < 1e-10, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_mask_computes_with_the_chosen_values_in_their_places(double, architecture):
    """FISH: logits and gradients of a model whose weights hold the trained values, put there by hand."""
    model = in_double_precision(architecture)
    generator = torch.Generator().manual_seed(2)
    chosen = {
        name: torch.randperm(parameter.numel(), generator=generator)[:5].sort().values
        for name, parameter in model.named_parameters()
    }
    delta = delta_of(model, chosen)
    with torch.no_grad():
        for parameter in delta.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    ids = torch.randint(3, 150, (2, 7), generator=generator)
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids[:, :4]} if architecture == "t5" else {})}
    with delta.attached(model):
        ours = model(**inputs).logits
    weights = torch.randn(ours.shape, generator=generator)
    (ours * weights).mean().backward()

    values = {name: delta.pieces[name.replace(".", "/")].values[0].detach().requires_grad_(True) for name in chosen}
    changed = {}
    for name, places in chosen.items():
        weight = model.get_parameter(name)
        changed[name] = weight.flatten().scatter(0, places, values[name]).view(weight.shape)
    theirs = torch.func.functional_call(model, changed, (), inputs).logits
    (theirs * weights).mean().backward()
    assert (ours - theirs).abs().max() < 1e-10
    for name in chosen:
        own = delta.pieces[name.replace(".", "/")].values.grad[0]
        assert (own - values[name].grad).abs().max() < 1e-10, name


def network(delta, site):
    """The two-layer reparameterisation, if there is one: tanh(E A + a) B + b, split in keys and values."""
    piece = delta.pieces[site.path.replace(".", "/")]
    if not hasattr(piece, "shared"):
        return None
    shared = piece.shared
    states = torch.tanh(shared.embedding @ shared.weight + shared.bias) @ piece.weight + piece.bias  # (1, P, 2 H W)
    halves = states.chunk(2, dim=-1)
    return [half.unflatten(-1, (site.heads, site.head_width)).transpose(1, 2) for half in halves]


def test_a_fused_projection_is_scaled_in_slices():
    """GPT-2's query-key-value is one map: (IA)^3 must leave the queries alone."""
    model = tiny_model("gpt2", 600).eval().requires_grad_(False)
    delta = VARIANTS["ia3"].build(anatomy_of(model), 1)
    with torch.no_grad():
        for parameter in delta.parameters():
            parameter.add_(torch.randn_like(parameter))
    x = torch.randn(2, 5, 32)
    module = model.transformer.h[0].attn.c_attn
    plain = module(x)
    with delta.attached(model):
        scaled = module(x)
    assert torch.equal(scaled[..., :32], plain[..., :32])
    assert not torch.isclose(scaled[..., 32:], plain[..., 32:]).all(1).any()
