"""Tiny random models of every supported architecture, with the properties that make one differ from another.

Weights are drawn anew at a lively scale: as transformers draws them, attention of a model this small is almost uniform,
and a wrong mask or position would change scores by less than rounding does.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedTokenizerFast

from adaptbench.data.templates import Prompt
from adaptbench.methods.base import Adaptation
from adaptbench.scoring.evaluate import all_readings, evaluate

WINDOW = 6  # tokens: fewer than any prompt has

Settings = dict[str, Any]

_OPT: Settings = {
    "hidden_size": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "word_embed_proj_dim": 32,
    "dropout": 0.0,
    "pad_token_id": 0,
}
_LLAMA: Settings = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "attention_dropout": 0.0,
}
_GEMMA: Settings = {**_LLAMA, "head_dim": 12, "query_pre_attn_scalar": 7, "sliding_window": WINDOW}
_EXPERTS: Settings = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 20}
_BART: Settings = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 40,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
}
_T5: Settings = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
}
_FALCON: Settings = {
    "hidden_size": 32,
    "ffn_hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 2,
    "eos_token_id": 1,
}

SETTINGS: dict[str, tuple[str, Settings]] = {  # name -> model_type, settings
    "t5": ("t5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5_ungated_tied": ("t5", {**_T5, "feed_forward_proj": "relu", "tie_word_embeddings": True}),
    "mt5": ("mt5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "umt5": ("umt5", {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "bart": ("bart", {**_BART, "scale_embedding": False}),
    "mbart": ("mbart", {**_BART, "scale_embedding": True}),
    "m2m_100": ("m2m_100", {**_BART, "scale_embedding": True}),
    "marian": ("marian", {**_BART, "scale_embedding": True, "decoder_start_token_id": 0}),
    "llama": ("llama", _LLAMA),
    "llama_biases": ("llama", {**_LLAMA, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "mistral_windows": ("mistral", {**_LLAMA, "sliding_window": WINDOW, "head_dim": 12}),
    "qwen2": ("qwen2", _LLAMA),
    "qwen2_windows_above": (
        "qwen2",
        {**_LLAMA, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "qwen3_windows": (
        "qwen3",
        {**_LLAMA, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1, "head_dim": 12},
    ),
    "phi3_windows": ("phi3", {**_LLAMA, "sliding_window": WINDOW}),
    "gemma2": ("gemma2", {**_GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}),
    "gemma3_text": (
        "gemma3_text",
        {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"], "final_logit_softcapping": None},
    ),
    "mixtral_windows": (
        "mixtral",
        {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": WINDOW},
    ),
    "qwen2_moe": (  # a dense layer, then one of experts
        "qwen2_moe",
        {**_LLAMA, **_EXPERTS, "shared_expert_intermediate_size": 24, "mlp_only_layers": [0], "decoder_sparse_step": 1},
    ),
    "qwen3_moe": ("qwen3_moe", {**_LLAMA, **_EXPERTS, "head_dim": 12, "norm_topk_prob": True}),
    "olmo2": ("olmo2", _LLAMA),
    "smollm3_nope_windows": (
        "smollm3",
        {
            **_LLAMA,
            "no_rope_layers": [1, 0],
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "stablelm": ("stablelm", {**_LLAMA, "use_qkv_bias": True}),
    "stablelm_parallel": ("stablelm", {**_LLAMA, "use_parallel_residual": True, "qk_layernorm": True}),
    "granite": (
        "granite",
        {
            **_LLAMA,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
            "attention_multiplier": 0.2,
        },
    ),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 512,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": 2,
            "eos_token_id": 1,
        },
    ),
    "gpt2_scaled": (
        "gpt2",
        {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_inner": 48,
            "n_positions": 512,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "bos_token_id": 2,
            "eos_token_id": 1,
            "scale_attn_by_inverse_layer_idx": True,
            "reorder_and_upcast_attn": True,
        },
    ),
    "gpt_neox": ("gpt_neox", {**_LLAMA, "rotary_pct": 0.5, "use_parallel_residual": True}),
    "gpt_neox_sequential": ("gpt_neox", {**_LLAMA, "use_parallel_residual": False, "attention_bias": False}),
    "opt": ("opt", _OPT),
    "opt_projected": ("opt", {**_OPT, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "pad_token_id": 0}),
    "bloom_residual_after_norm": (
        "bloom",
        {"hidden_size": 32, "n_layer": 2, "n_head": 4, "apply_residual_connection_post_layernorm": True},
    ),
    "falcon_7b": ("falcon", {**_FALCON, "multi_query": True, "parallel_attn": True}),
    "falcon_40b": ("falcon", {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}),
    "falcon_11b": (
        "falcon",
        {**_FALCON, "new_decoder_architecture": True, "num_kv_heads": 2, "num_ln_in_parallel_attn": 1},
    ),
    "falcon_rw": ("falcon", {**_FALCON, "multi_query": False, "parallel_attn": False, "bias": True, "alibi": True}),
}
ENCODER_DECODERS = ("t5", "t5_ungated_tied", "mt5", "umt5", "bart", "mbart", "m2m_100", "marian")
DECODERS = tuple(name for name in SETTINGS if name not in ENCODER_DECODERS)
WINDOWED = tuple(name for name, (_, settings) in SETTINGS.items() if settings.get("sliding_window"))


def config_of(name: str, vocabulary: int, **changes: Any) -> Any:
    """The configuration of a tiny model, some settings changed."""
    kind, settings = SETTINGS[name]
    return AutoConfig.for_model(kind, vocab_size=vocabulary, **{**settings, **changes})


def save_tiny(config: Any, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """Write a model of this configuration and its tokenizer as a user would download them."""
    torch.manual_seed(0)
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    model = auto.from_config(config)
    enliven(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@torch.no_grad()
def enliven(model: torch.nn.Module) -> None:
    """Draw all weights so that scores depend on every part of the model."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 1:  # norms and biases
            parameter.add_(0.3 * torch.randn_like(parameter))
        elif "embed" in name or "wte" in name or "shared" in name:
            parameter.copy_(torch.randn_like(parameter))
        else:
            parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)


def own_log_likelihood(model: Any, source: Sequence[int], choice: Sequence[int], virtual: Sequence[int] = ()) -> float:
    """log p(choice | source) by transformers alone: one row, no padding, no mask or position given.

    Args:
        virtual: what an encoder-decoder's decoder reads before its start token.
    """
    if model.config.is_encoder_decoder:
        read = [*virtual, model.config.decoder_start_token_id, *choice[:-1]]
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([read]), use_cache=False).logits
    else:
        logits = model(input_ids=torch.tensor([[*source, *choice[:-1]]]), use_cache=False).logits
    log_p = logits[0, -len(choice) :].double().log_softmax(-1)
    return log_p[range(len(choice)), list(choice)].sum().item()


@torch.no_grad()
def largest_difference(model: Any, adaptation: Adaptation, prompts: Sequence[Prompt], batch_size: int = 4) -> float:
    """Nats between what this program scores in batches and what transformers makes of every row alone."""
    worst = 0.0
    read, scores = all_readings(adaptation, prompts), evaluate(adaptation, prompts, batch_size)
    for run in range(len(adaptation.seeds)):
        for reading, score in zip(read[run], scores[run], strict=True):
            own = [own_log_likelihood(model, reading.encoded.source, choice) for choice in reading.encoded.choices]
            gaps = [abs(a - b) for a, b in zip(own, score.log_likelihoods, strict=True)]
            worst = max(worst, *gaps)
    return worst
