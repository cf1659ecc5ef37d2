"""What config.json alone says against a model: found before any weight is loaded."""

from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from adaptbench.errors import InputError
from adaptbench.models.anatomy import ENCODERS_ONLY


def check_loadable(config: Any, path: str, dtype: str, max_length: int | None) -> None:
    """Refuse what is known from config.json alone not to work with these settings.

    Raises:
        InputError: an architecture that cannot score answers (`check_scores`), fp16 for a T5, or a length beyond which
            scores would depend on the batch.
    """
    check_precision(config, dtype)
    check_scores(config, f"model.path={path!r}")
    check_length(config, max_length)


def check_precision(config: Any, dtype: str) -> None:
    """Refuse fp16 for a T5.

    Raises:
        InputError: says why.
    """
    if dtype == "float16" and config.model_type in {"t5", "mt5", "umt5"}:
        raise InputError("model.dtype='float16': T5 overflows in float16; use bfloat16 or float32")


def check_length(config: Any, max_length: int | None) -> None:
    """Refuse a length beyond which what is computed for a row would depend on the batch.

    Raises:
        InputError: names the limit.
    """
    if max_length and max_length > (rotary_limit(config) or max_length):
        raise InputError(
            f"model.max_length={max_length}: beyond {rotary_limit(config)} tokens the rotary frequencies of this model "
            "are those of the longest row of a batch, so scores would depend on the batch"
        )


def check_scores(config: Any, named: str) -> None:
    """Refuse an architecture that cannot score answers.

    Args:
        named: the model, for the message.

    Raises:
        InputError: it is an encoder, reads both ways, has no language model head, answers that begin with nothing, or
            attention that depends on the batch.
    """
    kind = config.model_type
    if kind in ENCODERS_ONLY or _only_masked(config):
        raise InputError(f"{named}: {kind} is an encoder and cannot score answers")
    text = config.get_text_config()
    if getattr(text, "use_bidirectional_attention", False) or getattr(text, "is_causal", True) is False:
        raise InputError(f"{named}: this {kind} reads both ways (config.json says so) and cannot score answers")
    auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    if type(config) not in auto._model_mapping:
        raise InputError(f"{named}: transformers has no language model of type {kind} ({auto.__name__})")
    if config.is_encoder_decoder and getattr(config, "decoder_start_token_id", None) is None:
        raise InputError(
            f"{named}: config.json has no decoder_start_token_id, the token that every answer of a {kind} follows "
            "(T5: the padding token's id)"
        )
    if getattr(config, "attention_type", None) == "block_sparse":
        raise InputError(
            f"{named}: attention_type='block_sparse' in config.json looks at random blocks, and at all of a short "
            "batch, so scores would depend on the batch; attention_type='original_full' there works"
        )


def _only_masked(config: Any) -> bool:
    """It has a masked language model's head and no decoder."""
    masked = type(config) in AutoModelForMaskedLM._model_mapping
    return masked and not config.is_encoder_decoder and not getattr(config, "is_decoder", False)


def positions(config: Any) -> int | None:
    """How many positions a model has for its input; None where they do not bound it."""
    text = config if config.is_encoder_decoder else config.get_text_config()
    names = ["max_position_embeddings", "max_encoder_position_embeddings"]
    if not config.is_encoder_decoder:  # T5's number is advice
        names += ["n_positions", "max_seq_len"]
    known = [limit for name in names if (limit := getattr(text, name, None))]
    return min([*known, *([limit] if (limit := rotary_limit(config)) else [])], default=None)


def rotary_limit(config: Any) -> int | None:
    """Tokens beyond which a model turns all rows of a batch by the frequencies of the longest.

    LongRoPE (Phi-3's 128k variants) has a second set for long rows, dynamic scaling one for every length.
    """
    text = config.get_text_config()
    ropes, limits = getattr(text, "rope_parameters", None) or {}, []
    for rope in (ropes, *ropes.values()):
        kind = (rope.get("rope_type") or "") if isinstance(rope, dict) else ""
        if kind == "longrope":
            limits.append(rope.get("original_max_position_embeddings"))
        elif "dynamic" in kind:
            limits.append(getattr(text, "max_position_embeddings", None))
    return min(filter(None, limits), default=None)
