"""Tiny GGUF files as llama.cpp's converter writes them, beside the model that they were made from."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType, TokenType
from gguf.quants import quantize
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from tests.conftest import WORDS, bpe_tokenizer
from tests.models.architectures import enliven

LAYERS, HEADS, GROUPS, WIDTH = 2, 4, 2, 16  # 64 wide: rows are whole blocks of 32 numbers, which quantised ones must be
NAMES = {  # transformers' -> llama.cpp's, of a block
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


@dataclass(frozen=True)
class Original:
    """A model with its tokenizer, from which a GGUF file is made."""

    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast

    def weights(self) -> dict[str, np.ndarray]:
        """By llama.cpp's names, rows in transformers' order; without the head where it is the embeddings."""
        named = dict(OUTSIDE)
        for layer in range(LAYERS):
            named |= {f"model.layers.{layer}.{ours}": f"blk.{layer}.{theirs}" for ours, theirs in NAMES.items()}
        state = {name.removesuffix(".weight"): tensor for name, tensor in self.model.named_parameters()}
        return {f"{named[name]}.weight": tensor.detach().numpy() for name, tensor in state.items()}


def original(*, tied: bool = True, seed: int = 0) -> Original:
    """A llama of two layers with grouped keys and values, lively enough for scores to depend on every part."""
    tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=False)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=HEADS * WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, max_position_embeddings=512, rms_norm_eps=2**-16,
        rope_parameters={"rope_type": "default", "rope_theta": 1024.0}, tie_word_embeddings=tied,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config).eval()
    enliven(model)
    return Original(model, tokenizer)


def interleaved(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of queries or keys as llama.cpp keeps them: rotary pairs side by side, not half a head apart."""
    rows = np.arange(len(weight)).reshape(heads, 2, -1)
    return weight[rows.transpose(0, 2, 1).ravel()]


def write_gguf(
    file: Path,
    made_from: Original,
    kind: str = "F32",
    *,
    architecture: str = "llama",
    vocabulary: str = "gpt2",
    adds_start: bool = False,
    without: str | None = None,
    also: dict[str, np.ndarray] | None = None,
    scaling: str | None = None,
) -> Path:
    """Write a file whose matrices are of this quantisation; norms stay float32, as llama.cpp keeps them.

    Args:
        vocabulary: the kind of tokenizer that the file says it holds.
        adds_start: whether that puts a token before every text.
        without: the start of names of tensors to leave out.
        also: more tensors.
        scaling: of rotary positions.
    """
    config = made_from.model.config
    writer = GGUFWriter(file, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_block_count(LAYERS)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if scaling:
        writer.add_rope_scaling_type(RopeScalingType(scaling))
    _add_tokenizer(writer, made_from.tokenizer, vocabulary, adds_start)
    for name, weight in {**made_from.weights(), **(also or {})}.items():
        if without is not None and name.startswith(without):
            continue
        if ".attn_q." in name or ".attn_k." in name:
            weight = interleaved(weight, HEADS if ".attn_q." in name else GROUPS)
        form = GGMLQuantizationType["F32" if weight.ndim == 1 else kind]
        writer.add_tensor(name, quantize(weight, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: GGUFWriter, tokenizer: PreTrainedTokenizerFast, kind: str, adds_start: bool) -> None:
    """A byte-level BPE vocabulary; llama.cpp calls all of them "gpt2"."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if token in special else TokenType.NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(adds_start)
