"""The paper's own cost arithmetic (section 4.2), kept apart from what is counted.

A decoder-only model of N parameters spends 2N FLOPs per token in inference and 6N in training; an
encoder-decoder half of each, since a token visits only one of its halves. Attention, embeddings and what a
method adds are left out.
"""


def flops_per_token(parameters: int, is_encoder_decoder: bool) -> int:
    """FLOPs of a forward pass per token."""
    return parameters if is_encoder_decoder else 2 * parameters


def predict(parameters: int, is_encoder_decoder: bool, tokens: float) -> float:
    """FLOPs to score one example of `tokens` tokens: its input, all its choices, and its demonstrations."""
    return flops_per_token(parameters, is_encoder_decoder) * tokens


def adapt(parameters: int, is_encoder_decoder: bool, tokens: float) -> float:
    """FLOPs to train on `tokens` tokens in all: three forward passes' worth, frozen weights or not."""
    return 3 * flops_per_token(parameters, is_encoder_decoder) * tokens
