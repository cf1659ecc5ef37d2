"""Where the parts of a model are. Only this module knows module names; a new architecture is one entry here.

Models without an entry are scored as they are (zero-shot, in-context learning) and trained as a whole; nothing attaches
to their parts.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from adaptbench.errors import InputError
from adaptbench.models.sites import (
    ROLES,
    Anatomy,
    AttentionSite,
    Columns,
    EmbeddingSite,
    LinearSite,
    NormSite,
    SublayerSite,
    no_prefixes,
    weight_matrix,
)

__all__ = [
    "ENCODERS_ONLY",
    "ROLES",
    "Anatomy",
    "AttentionSite",
    "Columns",
    "EmbeddingSite",
    "LinearSite",
    "NormSite",
    "SublayerSite",
    "anatomy_of",
    "calls_attention_function",
    "check_parts",
    "packs_choices",
    "weight_matrix",
]

_Parts = Iterator[LinearSite | SublayerSite | AttentionSite | NormSite | EmbeddingSite]


def _always(_config: Any) -> bool:
    return True


@dataclass(frozen=True)
class Architecture:
    """What is known of an architecture: its parts, and two properties of its code in transformers."""

    parts: Callable[[nn.Module], _Parts]
    packs: Callable[[Any], bool] = _always
    """Choices laid side by side under a mask, with positions of our own, equal each choice alone. Not where positions
    are counted off the row (BART), or biases off the mask (ALiBi)."""
    calls_attention_function: bool = True
    """Attention is a function that can be exchanged (`models/attention.py`): what prefixes need."""


def anatomy_of(model: nn.Module) -> Anatomy:
    """The anatomy of a supported architecture.

    Raises:
        InputError: an architecture without an entry here.
    """
    config: Any = model.config
    check_parts(config, "this method")
    architecture = _ARCHITECTURES[config.model_type]
    parts = tuple(architecture.parts(model))
    return Anatomy(
        linears=tuple(part for part in parts if isinstance(part, LinearSite)),
        sublayers=tuple(part for part in parts if isinstance(part, SublayerSite)),
        attentions=tuple(part for part in parts if isinstance(part, AttentionSite)),
        norms=tuple(part for part in parts if isinstance(part, NormSite)),
        embeddings=tuple(part for part in parts if isinstance(part, EmbeddingSite)),
        takes_prefixes=architecture.calls_attention_function,
        model_type=config.model_type,
    )


def check_parts(config: Any, named: str, prefixes: bool = False) -> None:
    """Refuse an architecture whose parts are not known, before any weight is loaded.

    Args:
        named: what attaches to parts, for the message.
        prefixes: it puts keys and values before those of attentions.

    Raises:
        InputError: says what runs on it all the same, and which architectures are known.
    """
    kind = config.model_type
    if kind not in _ARCHITECTURES:
        known = ", ".join(sorted(_ARCHITECTURES))
        raise InputError(
            f"{named}: the parts of a model of type {kind!r} are not known here; zero_shot, icl, full_ft, fish_mask "
            f"and hf_peft run on it, the others on {known}"
        )
    if prefixes and not calls_attention_function(config):
        raise InputError(no_prefixes(kind, named))


def has_anatomy(config: Any) -> bool:
    """The parts of this architecture are known."""
    return config.model_type in _ARCHITECTURES


def packs_choices(config: Any) -> bool:
    """All choices of a prompt can share one pass; nobody has tried where the architecture is not known."""
    architecture = _ARCHITECTURES.get(config.model_type)
    return architecture is not None and architecture.packs(config)


def calls_attention_function(config: Any) -> bool:
    """The model can be loaded with our attention function; an unknown one is left as the library has it."""
    architecture = _ARCHITECTURES.get(config.model_type)
    return architecture is not None and architecture.calls_attention_function


def _linear(model: nn.Module, path: str, role: str) -> LinearSite:
    linear: Any = model.get_submodule(path)
    return LinearSite(path, role, linear.in_features, linear.out_features)


def _fused(model: nn.Module, path: str, parts: dict[str, Columns]) -> Iterator[LinearSite]:
    """The roles that share one map."""
    linear: Any = model.get_submodule(path)
    for role, columns in parts.items():
        yield LinearSite(path, role, linear.in_features, columns.width, columns)


def _norm(model: nn.Module, path: str, offset: float = 0.0) -> NormSite:
    norm: Any = model.get_submodule(path)
    return NormSite(path, len(norm.weight), getattr(norm, "bias", None) is not None, offset)


def _norms(model: nn.Module, owner: str, *names: str, offset: float = 0.0) -> Iterator[NormSite]:
    """Those norms with a weight that a module has: families of architectures differ in them."""
    module = model.get_submodule(owner)
    for name in names:
        if getattr(getattr(module, name, None), "weight", None) is not None:
            yield _norm(model, f"{owner}.{name}", offset)


def _embedding(
    model: nn.Module, path: str, kind: str = "decoder", prefix: str = "", scale: float = 1.0
) -> EmbeddingSite:
    embedding: Any = model.get_submodule(path)
    return EmbeddingSite(path, kind, embedding.embedding_dim, f"{prefix}input_ids", f"{prefix}inputs_embeds", scale)


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


def _bart(model: nn.Module) -> _Parts:
    """BART, mBART, M2M-100 (and with it NLLB) and Marian: norms before or after the sublayers, or at the ends."""
    config: Any = model.config
    width = config.d_model
    # Marian's encoder multiplies what it looks up, but not what it is given; all others do both or neither.
    scale = getattr(model.get_submodule("model.encoder"), "embed_scale", 1.0)
    yield _embedding(model, "model.encoder.embed_tokens", "encoder", scale=float(scale))  # type: ignore[arg-type]
    yield _embedding(model, "model.decoder.embed_tokens", "decoder", "decoder_")
    for stack in ("encoder", "decoder"):
        root, heads = f"model.{stack}", getattr(config, f"{stack}_attention_heads")
        yield from _norms(model, root, "layernorm_embedding")
        attentions = [("self_attn", "self", stack)]
        if stack == "decoder":
            attentions.append(("encoder_attn", "cross", "cross"))
        for layer in range(getattr(config, f"{stack}_layers")):
            path = f"{root}.layers.{layer}"
            for name, role, kind in attentions:
                for letter in "qkv":
                    yield _linear(model, f"{path}.{name}.{letter}_proj", letter)
                yield _linear(model, f"{path}.{name}.out_proj", "o")
                yield AttentionSite(f"{path}.{name}", heads, width // heads, kind, width)
                yield SublayerSite(f"{path}.{name}", role, width)
                yield _norm(model, f"{path}.{name}_layer_norm")
            yield _linear(model, f"{path}.fc1", "ff_in")
            yield _linear(model, f"{path}.fc2", "ff_out")
            yield SublayerSite(f"{path}.fc2", "ff", width)
            yield _norm(model, f"{path}.final_layer_norm")
            yield SublayerSite(path, "block", width)
        yield from _norms(model, root, "layer_norm")


def _llama(model: nn.Module) -> _Parts:
    """Llama and the many that differ from it in norms, positions, windows, scales and experts only.

    Experts are held in one tensor each of three axes, no linear maps: a mixture of experts has the sites of its
    attentions, and of its feed-forward only what is dense (Qwen2's shared expert, whole layers).
    """
    config: Any = model.config
    offset = 1.0 if config.model_type in ("gemma2", "gemma3_text") else 0.0
    yield _embedding(model, "model.embed_tokens")
    for layer in range(config.num_hidden_layers):
        path = f"model.layers.{layer}"
        attention: Any = model.get_submodule(f"{path}.self_attn")
        yield from _norms(model, path, "input_layernorm", offset=offset)
        yield from _llama_attention(model, f"{path}.self_attn", offset)
        yield AttentionSite(
            f"{path}.self_attn", config.num_key_value_heads, attention.head_dim, "decoder", config.hidden_size
        )
        yield SublayerSite(f"{path}.self_attn", "self", config.hidden_size)
        yield from _norms(model, path, "post_attention_layernorm", "pre_feedforward_layernorm", offset=offset)
        yield from _llama_feed_forward(model, f"{path}.mlp")
        yield SublayerSite(f"{path}.mlp", "ff", config.hidden_size)
        yield from _norms(model, path, "post_feedforward_layernorm", offset=offset)
        yield SublayerSite(path, "block", config.hidden_size)
    yield _norm(model, "model.norm", offset)


def _llama_attention(model: nn.Module, path: str, offset: float) -> _Parts:
    config: Any = model.config
    attention: Any = model.get_submodule(path)
    if hasattr(attention, "qkv_proj"):  # Phi-3
        queries = config.num_attention_heads * attention.head_dim
        keys = config.num_key_value_heads * attention.head_dim
        bounds = [0, queries, queries + keys, queries + 2 * keys]
        parts = {letter: Columns(bounds[i], bounds[i + 1]) for i, letter in enumerate("qkv")}
        yield from _fused(model, f"{path}.qkv_proj", parts)
        yield _linear(model, f"{path}.o_proj", "o")
    else:
        for letter in "qkvo":
            yield _linear(model, f"{path}.{letter}_proj", letter)
    yield from _norms(model, path, "q_norm", "k_norm", offset=offset)  # of a head, or (OLMo 2) of all
    for name in ("q_layernorm", "k_layernorm"):  # StableLM: every head has its own
        for head in range(len(getattr(getattr(attention, name, None), "norms", ()))):
            yield _norm(model, f"{path}.{name}.norms.{head}")


def _llama_feed_forward(model: nn.Module, path: str) -> Iterator[LinearSite]:
    module = model.get_submodule(path)
    if hasattr(module, "gate_up_proj"):  # Phi-3
        inner = model.get_submodule(f"{path}.down_proj").in_features
        parts = {"ff_gate": Columns(0, inner), "ff_in": Columns(inner, 2 * inner)}  # type: ignore[arg-type, operator]
        yield from _fused(model, f"{path}.gate_up_proj", parts)
        yield _linear(model, f"{path}.down_proj", "ff_out")
        return
    if hasattr(module, "experts"):
        path, module = f"{path}.shared_expert", getattr(module, "shared_expert", nn.Identity())
    for name, role in {"gate_proj": "ff_gate", "up_proj": "ff_in", "down_proj": "ff_out"}.items():
        if hasattr(module, name):
            yield _linear(model, f"{path}.{name}", role)


def _gpt2(model: nn.Module) -> _Parts:
    config: Any = model.config
    width, inner = config.hidden_size, config.n_inner or 4 * config.hidden_size
    yield _embedding(model, "transformer.wte")
    for layer in range(config.n_layer):
        path = f"transformer.h.{layer}"
        yield _norm(model, f"{path}.ln_1")
        for index, letter in enumerate("qkv"):
            columns = Columns(index * width, (index + 1) * width)
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


def _gpt_neox(model: nn.Module) -> _Parts:
    """GPT-NeoX and Pythia: queries, keys and values head by head; attention and feed-forward read side by side."""
    config: Any = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    yield _embedding(model, "gpt_neox.embed_in")
    for layer in range(config.num_hidden_layers):
        path = f"gpt_neox.layers.{layer}"
        yield _norm(model, f"{path}.input_layernorm")
        yield from _fused(model, f"{path}.attention.query_key_value", _by_head(heads, width // heads))
        yield _linear(model, f"{path}.attention.dense", "o")
        yield AttentionSite(f"{path}.attention", heads, width // heads, "decoder", width)
        yield SublayerSite(f"{path}.attention", "self", width)
        yield _norm(model, f"{path}.post_attention_layernorm")
        yield _linear(model, f"{path}.mlp.dense_h_to_4h", "ff_in")
        yield _linear(model, f"{path}.mlp.dense_4h_to_h", "ff_out")
        yield SublayerSite(f"{path}.mlp", "ff", width)
        yield SublayerSite(path, "block", width)
    yield _norm(model, "gpt_neox.final_layer_norm")


def _by_head(groups: int, width: int, queries: int = 1) -> dict[str, Columns]:
    """In each group: the queries of some heads, the keys of one and its values."""
    bounds = [0, queries * width, (queries + 1) * width, (queries + 2) * width]
    return {letter: Columns(bounds[i], bounds[i + 1], groups) for i, letter in enumerate("qkv")}


def _bloom(model: nn.Module) -> _Parts:
    """Attention and feed-forward add the residual themselves, so a sublayer's output is that of its last map."""
    config: Any = model.config
    if config.slow_but_exact and config.pretraining_tp > 1:
        raise InputError("slow_but_exact=true in a Bloom's config.json: its maps are then cut up, and nothing attaches")
    width, heads = config.hidden_size, config.n_head
    yield _embedding(model, "transformer.word_embeddings")
    yield _norm(model, "transformer.word_embeddings_layernorm")
    for layer in range(config.n_layer):
        path = f"transformer.h.{layer}"
        yield _norm(model, f"{path}.input_layernorm")
        yield from _fused(model, f"{path}.self_attention.query_key_value", _by_head(heads, width // heads))
        yield _linear(model, f"{path}.self_attention.dense", "o")
        yield AttentionSite(f"{path}.self_attention", heads, width // heads, "decoder", width)
        yield SublayerSite(f"{path}.self_attention.dense", "self", width)
        yield _norm(model, f"{path}.post_attention_layernorm")
        yield _linear(model, f"{path}.mlp.dense_h_to_4h", "ff_in")
        yield _linear(model, f"{path}.mlp.dense_4h_to_h", "ff_out")
        yield SublayerSite(f"{path}.mlp.dense_4h_to_h", "ff", width)
        yield SublayerSite(path, "block", width)
    yield _norm(model, "transformer.ln_f")


def _falcon(model: nn.Module) -> _Parts:
    """Three layouts of queries, keys and values: in groups (40B), one key for all heads (7B), or head by head (RW)."""
    config: Any = model.config
    width, heads = config.hidden_size, config.num_attention_heads
    head = width // heads
    kept = 1 if config.multi_query else heads
    if config.new_decoder_architecture:
        kept = config.num_kv_heads
    columns = _by_head(kept, head, heads // kept)
    yield _embedding(model, "transformer.word_embeddings")
    for layer in range(config.num_hidden_layers):
        path = f"transformer.h.{layer}"
        yield from _norms(model, path, "ln_attn", "input_layernorm")
        yield from _fused(model, f"{path}.self_attention.query_key_value", columns)
        yield _linear(model, f"{path}.self_attention.dense", "o")
        yield AttentionSite(f"{path}.self_attention", kept, head, "decoder", width)
        yield SublayerSite(f"{path}.self_attention", "self", width)
        yield from _norms(model, path, "ln_mlp", "post_attention_layernorm")
        yield _linear(model, f"{path}.mlp.dense_h_to_4h", "ff_in")
        yield _linear(model, f"{path}.mlp.dense_4h_to_h", "ff_out")
        yield SublayerSite(f"{path}.mlp", "ff", width)
        yield SublayerSite(path, "block", width)
    yield _norm(model, "transformer.ln_f")


def _opt(model: nn.Module) -> _Parts:
    config: Any = model.config
    width = config.hidden_size
    yield _embedding(model, "model.decoder.embed_tokens")
    for layer in range(config.num_hidden_layers):
        path = f"model.decoder.layers.{layer}"
        yield from _norms(model, path, "self_attn_layer_norm")
        for name, role in {"q_proj": "q", "k_proj": "k", "v_proj": "v", "out_proj": "o"}.items():
            yield _linear(model, f"{path}.self_attn.{name}", role)
        heads = config.num_attention_heads
        yield AttentionSite(f"{path}.self_attn", heads, width // heads, "decoder", width)
        yield SublayerSite(f"{path}.self_attn", "self", width)
        yield from _norms(model, path, "final_layer_norm")
        yield _linear(model, f"{path}.fc1", "ff_in")
        yield _linear(model, f"{path}.fc2", "ff_out")
        yield SublayerSite(f"{path}.fc2", "ff", width)
        yield SublayerSite(path, "block", width)
    yield from _norms(model, "model.decoder", "final_layer_norm")


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


def _never(_config: Any) -> bool:
    return False


_LLAMAS = (
    *("llama", "mistral", "qwen2", "qwen3", "phi3", "gemma2", "gemma3_text", "mixtral", "qwen2_moe", "qwen3_moe"),
    *("olmo2", "smollm3", "stablelm", "granite"),
)
_ARCHITECTURES: dict[str, Architecture] = {
    **{name: Architecture(_t5) for name in ("t5", "mt5", "umt5")},
    **{name: Architecture(_bart, packs=_never) for name in ("bart", "mbart", "m2m_100", "marian")},
    **{name: Architecture(_llama) for name in _LLAMAS},
    "gpt2": Architecture(_gpt2),
    "gpt_neox": Architecture(_gpt_neox),
    "opt": Architecture(_opt),
    "bloom": Architecture(_bloom, packs=_never, calls_attention_function=False),
    "falcon": Architecture(_falcon, packs=lambda config: not config.alibi, calls_attention_function=False),
    "bert": Architecture(_bert),
    "roberta": Architecture(_bert),
}
ENCODERS_ONLY = ("bert", "roberta")  # no language model head that reads left to right
