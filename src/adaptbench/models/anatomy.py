"""Where the parts of a model are. Only this module knows module names; a new architecture is one entry here."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from adaptbench.errors import InputError

ROLES = ("q", "k", "v", "o", "ff_in", "ff_gate", "ff_out")


@dataclass(frozen=True)
class LinearSite:
    """A linear map of the model, or a slice of the outputs of a fused one (GPT-2's query-key-value)."""

    path: str
    role: str  # one of ROLES
    d_in: int
    d_out: int
    columns: tuple[int, int] | None = None

    @property
    def key(self) -> str:
        return self.path if self.columns is None else f"{self.path}.{self.role}"


@dataclass(frozen=True)
class SublayerSite:
    """A module whose (first) output is a sublayer's output, before dropout and the residual sum."""

    path: str
    role: str  # self, cross or ff; block: a whole block with its residual sums
    width: int


@dataclass(frozen=True)
class AttentionSite:
    """A module that calls the attention function."""

    path: str
    heads: int  # of keys and values
    head_width: int
    kind: str  # encoder, decoder or cross
    width: int = 0  # of the hidden states it reads


@dataclass(frozen=True)
class NormSite:
    """A layer norm; T5's and Llama's have no bias."""

    path: str
    width: int
    has_bias: bool


@dataclass(frozen=True)
class EmbeddingSite:
    """The token embedding of one input of the model, and the names of that input as ids and as embeddings."""

    path: str
    kind: str  # encoder or decoder
    width: int
    ids: str
    embeds: str


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model that methods attach to, in the order of the forward pass."""

    linears: tuple[LinearSite, ...]
    sublayers: tuple[SublayerSite, ...]
    attentions: tuple[AttentionSite, ...]
    norms: tuple[NormSite, ...] = ()
    embeddings: tuple[EmbeddingSite, ...] = ()

    def linear(self, *roles: str) -> tuple[LinearSite, ...]:
        """Linear sites of these roles.

        Raises:
            InputError: a role that does not exist.
        """
        unknown = set(roles) - set(ROLES)
        if unknown:
            raise InputError(f"targets: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(ROLES)}")
        return tuple(site for site in self.linears if site.role in roles)


_Parts = Iterator[LinearSite | SublayerSite | AttentionSite | NormSite | EmbeddingSite]


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of a supported architecture.

    Raises:
        InputError: an architecture without an entry here.
    """
    config: Any = model.config
    kind = config.model_type
    if kind not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise InputError(f"model of type {kind!r}: no anatomy for it; supported: {known}")
    parts = tuple(_ARCHITECTURES[kind](model))
    return Anatomy(
        linears=tuple(part for part in parts if isinstance(part, LinearSite)),
        sublayers=tuple(part for part in parts if isinstance(part, SublayerSite)),
        attentions=tuple(part for part in parts if isinstance(part, AttentionSite)),
        norms=tuple(part for part in parts if isinstance(part, NormSite)),
        embeddings=tuple(part for part in parts if isinstance(part, EmbeddingSite)),
    )


def _linear(model: nn.Module, path: str, role: str) -> LinearSite:
    linear: Any = model.get_submodule(path)
    return LinearSite(path, role, linear.in_features, linear.out_features)


def _norm(model: nn.Module, path: str) -> NormSite:
    norm: Any = model.get_submodule(path)
    return NormSite(path, len(norm.weight), getattr(norm, "bias", None) is not None)


def _embedding(model: nn.Module, path: str, kind: str = "decoder", prefix: str = "") -> EmbeddingSite:
    embedding: Any = model.get_submodule(path)
    return EmbeddingSite(path, kind, embedding.embedding_dim, f"{prefix}input_ids", f"{prefix}inputs_embeds")


def weight_matrix(linear: nn.Module) -> Tensor:
    """(d_out, d_in) view of a linear map's weight, whichever way round the architecture keeps it."""
    weight: Any = linear.weight
    return weight if isinstance(linear, nn.Linear) else weight.T


def _t5(model: nn.Module) -> _Parts:
    config: Any = model.config
    yield _embedding(model, "shared", "encoder")
    yield _embedding(model, "shared", "decoder", "decoder_")
    feed_forward = {"wi_0": "ff_gate", "wi_1": "ff_in", "wo": "ff_out"}
    if not config.is_gated_act:
        feed_forward = {"wi": "ff_in", "wo": "ff_out"}
    for stack, layers in (("encoder", config.num_layers), ("decoder", config.num_decoder_layers)):
        for block in range(layers):
            sublayers = [("SelfAttention", "self", stack)]
            if stack == "decoder":
                sublayers.append(("EncDecAttention", "cross", "cross"))
            for index, (name, role, kind) in enumerate(sublayers):
                yield _norm(model, f"{stack}.block.{block}.layer.{index}.layer_norm")
                path = f"{stack}.block.{block}.layer.{index}.{name}"
                yield from (_linear(model, f"{path}.{letter}", letter) for letter in "qkvo")
                yield AttentionSite(path, config.num_heads, config.d_kv, kind, config.d_model)
                yield SublayerSite(path, role, config.d_model)
            yield _norm(model, f"{stack}.block.{block}.layer.{len(sublayers)}.layer_norm")
            path = f"{stack}.block.{block}.layer.{len(sublayers)}.DenseReluDense"
            yield from (_linear(model, f"{path}.{name}", role) for name, role in feed_forward.items())
            yield SublayerSite(path, "ff", config.d_model)
            yield SublayerSite(f"{stack}.block.{block}", "block", config.d_model)
        yield _norm(model, f"{stack}.final_layer_norm")


def _llama(model: nn.Module) -> _Parts:
    config: Any = model.config
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    yield _embedding(model, "model.embed_tokens")
    for layer in range(config.num_hidden_layers):
        path = f"model.layers.{layer}"
        yield _norm(model, f"{path}.input_layernorm")
        for letter in "qkvo":
            yield _linear(model, f"{path}.self_attn.{letter}_proj", letter)
        for name in ("q_norm", "k_norm"):  # Qwen3
            if hasattr(model.get_submodule(f"{path}.self_attn"), name):
                yield _norm(model, f"{path}.self_attn.{name}")
        heads = config.num_key_value_heads
        yield AttentionSite(f"{path}.self_attn", heads, head_width, "decoder", config.hidden_size)
        yield SublayerSite(f"{path}.self_attn", "self", config.hidden_size)
        yield _norm(model, f"{path}.post_attention_layernorm")
        for name, role in {"gate_proj": "ff_gate", "up_proj": "ff_in", "down_proj": "ff_out"}.items():
            yield _linear(model, f"{path}.mlp.{name}", role)
        yield SublayerSite(f"{path}.mlp", "ff", config.hidden_size)
        yield SublayerSite(path, "block", config.hidden_size)
    yield _norm(model, "model.norm")


def _gpt2(model: nn.Module) -> _Parts:
    config: Any = model.config
    width, inner = config.hidden_size, config.n_inner or 4 * config.hidden_size
    yield _embedding(model, "transformer.wte")
    for layer in range(config.n_layer):
        path = f"transformer.h.{layer}"
        yield _norm(model, f"{path}.ln_1")
        for index, letter in enumerate("qkv"):
            columns = (index * width, (index + 1) * width)
            yield LinearSite(f"{path}.attn.c_attn", letter, width, width, columns)
        yield LinearSite(f"{path}.attn.c_proj", "o", width, width)
        yield AttentionSite(f"{path}.attn", config.n_head, width // config.n_head, "decoder", width)
        yield SublayerSite(f"{path}.attn", "self", width)
        yield _norm(model, f"{path}.ln_2")
        yield LinearSite(f"{path}.mlp.c_fc", "ff_in", width, inner)
        yield LinearSite(f"{path}.mlp.c_proj", "ff_out", inner, width)
        yield SublayerSite(f"{path}.mlp", "ff", width)
        yield SublayerSite(path, "block", width)
    yield _norm(model, "transformer.ln_f")


def _opt(model: nn.Module) -> _Parts:
    config: Any = model.config
    width = config.hidden_size
    yield _embedding(model, "model.decoder.embed_tokens")
    for layer in range(config.num_hidden_layers):
        path = f"model.decoder.layers.{layer}"
        yield _norm(model, f"{path}.self_attn_layer_norm")
        for name, role in {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}.items():
            yield _linear(model, f"{path}.self_attn.{name}", role)
        heads = config.num_attention_heads
        yield AttentionSite(f"{path}.self_attn", heads, width // heads, "decoder", width)
        yield SublayerSite(f"{path}.self_attn", "self", width)
        yield _norm(model, f"{path}.final_layer_norm")
        yield _linear(model, f"{path}.fc1", "ff_in")
        yield _linear(model, f"{path}.fc2", "ff_out")
        yield SublayerSite(f"{path}.fc2", "ff", width)
        yield SublayerSite(path, "block", width)
    if getattr(model.get_submodule("model.decoder"), "final_layer_norm", None) is not None:
        yield _norm(model, "model.decoder.final_layer_norm")


def _bert(model: nn.Module) -> _Parts:
    """BERT and RoBERTa, bare or under a head: bidirectional, so methods attach but no choices are scored."""
    config: Any = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    root = f"{config.model_type}." if hasattr(model, config.model_type) else ""
    yield _embedding(model, f"{root}embeddings.word_embeddings", "encoder")
    yield _norm(model, f"{root}embeddings.LayerNorm")
    for layer in range(config.num_hidden_layers):
        path = f"{root}encoder.layer.{layer}"
        for name, role in {"query": "q", "key": "k", "value": "v"}.items():
            yield _linear(model, f"{path}.attention.self.{name}", role)
        yield AttentionSite(f"{path}.attention.self", heads, width // heads, "encoder", width)
        yield _linear(model, f"{path}.attention.output.dense", "o")
        yield SublayerSite(f"{path}.attention.output.dense", "self", width)
        yield _norm(model, f"{path}.attention.output.LayerNorm")
        yield _linear(model, f"{path}.intermediate.dense", "ff_in")
        yield _linear(model, f"{path}.output.dense", "ff_out")
        yield SublayerSite(f"{path}.output.dense", "ff", width)
        yield _norm(model, f"{path}.output.LayerNorm")
        yield SublayerSite(path, "block", width)


_ARCHITECTURES: dict[str, Callable[[nn.Module], _Parts]] = {
    "t5": _t5,
    "mt5": _t5,
    "umt5": _t5,
    "llama": _llama,
    "mistral": _llama,
    "qwen2": _llama,
    "qwen3": _llama,
    "gpt2": _gpt2,
    "opt": _opt,
    "bert": _bert,
    "roberta": _bert,
}
ENCODERS_ONLY = ("bert", "roberta")  # no language model head that reads left to right
