"""The paper's own cost arithmetic (sections 2.1 and 4.2), kept apart from what is counted.

A decoder-only model of N parameters spends 2N FLOPs per token in inference and 6N in training (Kaplan et al. 2020);
an encoder-decoder half of each, since a token visits only one of its halves. Attention, embeddings and what a method
adds are left out.
"""

# Medians over the paper's eleven data sets (section 4.2), not means.
SHOTS = 41  # in-context examples
DEMONSTRATION_TOKENS = 98  # of an example with its right answer
PROMPT_TOKENS = 103  # of an input with all its choices
BYTES_PER_VALUE = 4  # parameters are stored in float32, token ids as 32-bit integers


def flops_per_token(parameters: float, is_encoder_decoder: bool) -> float:
    """FLOPs of a forward pass per token."""
    return parameters if is_encoder_decoder else 2 * parameters


def predict(parameters: float, is_encoder_decoder: bool, tokens: float) -> float:
    """FLOPs to score one example of `tokens` tokens: its input, all its choices, and its demonstrations."""
    return flops_per_token(parameters, is_encoder_decoder) * tokens


def adapt(parameters: float, is_encoder_decoder: bool, tokens: float) -> float:
    """FLOPs to train on `tokens` tokens in all: three forward passes' worth, frozen weights or not."""
    return 3 * flops_per_token(parameters, is_encoder_decoder) * tokens


def storage(values: int) -> int:
    """Bytes of so many trained parameters, or of so many token ids."""
    return BYTES_PER_VALUE * values


def kv_cache(layers: int, width: int, tokens: int, bytes_per_value: int = BYTES_PER_VALUE) -> int:
    """Bytes of one key and one value of `width` numbers per token and layer (section 2.1)."""
    return 2 * layers * width * bytes_per_value * tokens


def saved_by_caching(shots: int = SHOTS, demonstration: int = DEMONSTRATION_TOKENS, prompt: int = PROMPT_TOKENS):
    """How many times fewer tokens a prediction reads once the demonstrations' keys and values are kept."""
    return (shots * demonstration + prompt) / prompt


def break_even(adapt_once: float, prompting: float, tuned: float) -> float | None:
    """After how many predictions tuning is cheaper than prompting; None if it never is.

    Args:
        adapt_once: FLOPs spent once on tuning, less what prompting spends once (reading demonstrations into a cache).
        prompting: FLOPs of a prediction by prompting.
        tuned: FLOPs of a prediction by the tuned model.
    """
    if adapt_once <= 0:
        return 0.0
    return adapt_once / (prompting - tuned) if prompting > tuned else None
