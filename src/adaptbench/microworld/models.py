"""The embedded base models before training: architectures and how they start.

Random weights alone find neither where to look nor how to copy within the minutes of CPU time a rebuild may take, so
both start near what they need: a mimetic initialisation (Trockman and Kolter 2023), which training may undo.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from adaptbench.microworld.tokenizer import BOS, EOS, PAD, vocabulary

ROPE_THETA = (
    100_000.0  # half of a head's phases then turn less than a radian in 300 tokens: demonstrations stay in reach
)
CONSTANT = 0.25  # the first coordinate of every word: what heads read that care for positions only
SPREAD = 0.08  # size of the other coordinates


def t5_model(size: Any) -> PreTrainedModel:
    """T5 v1.1: gated GELU, untied head."""
    model = T5ForConditionalGeneration(
        T5Config(  # type: ignore[call-arg]
            vocab_size=len(vocabulary()),
            d_model=size.d_model,
            d_ff=size.d_ff,
            d_kv=size.d_kv,
            num_heads=size.num_heads,
            num_layers=size.num_layers,
            num_decoder_layers=size.num_layers,
            feed_forward_proj="gated-gelu_pytorch_tanh",  # the same function as gelu_new, in one kernel
            tie_word_embeddings=False,
            dropout_rate=0.0,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=PAD,
        )
    )
    model.set_attn_implementation("eager")  # on a CPU the fused kernel's backward is slower than plain products
    # The head is untied but starts as the embedding (which makes copying a word easy to learn), scaled so that the
    # loss starts near log(vocabulary): the library's unit variance would start it at about 60.
    with torch.no_grad():
        model.lm_head.weight.copy_(model.shared.weight * size.d_model**-0.5)
    return model


def gpt_model(size: Any) -> PreTrainedModel:
    """Llama with heads that learn from context set by hand (`look_back`, `look_up`)."""
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary()),
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_attention_heads=size.num_heads,
            num_key_value_heads=size.num_heads,
            head_dim=size.head_dim,
            num_hidden_layers=size.num_layers,
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
            initializer_range=SPREAD,
            tie_word_embeddings=True,  # copying a word from the context then needs no table of words
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
    model.set_attn_implementation("eager")
    start_with_induction(model, size.hidden_size, size.head_dim)
    return model


@torch.no_grad()
def start_with_induction(model: Any, width: int, head: int) -> None:
    """Heads in the manner of Olsson et al. (2022): what stood before a word like this one is followed by what?

    In all layers but the last, head 0 carries the previous word along; in all but the first, head 1 looks for places
    whose previous word is like the present one, and says what stands there. Words of one class grow alike by training,
    and then the same heads find the class instead of the word.
    """
    words = model.model.embed_tokens.weight
    words[:, 0] = 0
    words *= SPREAD * math.sqrt(width - 1) / words.norm(dim=1, keepdim=True).clamp(min=1e-3)  # the padding row is zero
    words[:, 0] = CONSTANT  # equal lengths: else long words would draw every head that reads the constant
    here, previous = directions(width, head), directions(width, head)
    for index, layer in enumerate(model.model.layers):
        for block in (layer.self_attn.o_proj, layer.mlp.down_proj):
            block.weight *= 0.3  # what is random speaks softly
        if index < len(model.model.layers) - 1:
            look_back(layer.self_attn, head, here, previous)
        if index > 0:
            look_up(layer.self_attn, head, here, previous, said=directions(width, head))


def directions(width: int, count: int) -> Tensor:
    """(count, width) orthonormal rows, none of which reads the constant coordinate."""
    drawn = torch.randn(width, count)
    drawn[0] = 0
    return torch.linalg.qr(drawn)[0].T.contiguous()


def look_back(attention: Any, head: int, own: Tensor, previous: Tensor, sharpness: float = 3.0) -> None:
    """Head 0 attends one token back, and writes what it reads along `own` there along `previous` here.

    Key and query read the constant, the query turned back by one position, so that the rotary phases agree exactly one
    token behind. Slow phases, too alike to tell neighbours apart, stay out.
    """
    attention.q_proj.weight[:head] = 0
    attention.k_proj.weight[:head] = 0
    for pair, angle in enumerate(rotations(head)):
        if angle < 0.03:
            break
        attention.k_proj.weight[pair, 0] = sharpness
        attention.q_proj.weight[pair, 0] = sharpness * math.cos(angle)
        attention.q_proj.weight[pair + head // 2, 0] = -sharpness * math.sin(angle)
    attention.v_proj.weight[:head] = own
    attention.o_proj.weight[:, :head] = 0.4 * previous.T


def look_up(attention: Any, head: int, own: Tensor, previous: Tensor, said: Tensor, sharpness: float = 2.5) -> None:
    """Head 1 attends where the `previous` word matches the `own` word here, and repeats what stands there.

    Only phases that hardly turn within a context are used: a match counts wherever it is.
    """
    slow = [pair for pair, angle in enumerate(rotations(head)) if angle < 0.004]
    rows = [head + pair + half for half in (0, head // 2) for pair in slow]
    attention.q_proj.weight[head : 2 * head] = 0
    attention.k_proj.weight[head : 2 * head] = 0
    attention.q_proj.weight[rows] = sharpness * own[: len(rows)]
    attention.k_proj.weight[rows] = sharpness * previous[: len(rows)]
    attention.v_proj.weight[head : 2 * head] = said
    attention.o_proj.weight[:, head : 2 * head] = 0.8 * said.T


def rotations(head: int) -> list[float]:
    """Radians by which each pair of a head's coordinates turns from one position to the next."""
    half = head // 2
    return [ROPE_THETA ** (-pair / half) for pair in range(half)]
