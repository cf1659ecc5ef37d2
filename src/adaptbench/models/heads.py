"""Heads on bare models: scores of classes, a number, or where an answer starts and ends, for R runs at once.

A head is a piece like any other (`methods/delta.py`): its parameters have a leading run axis, and it sees the states of
each run alone. It computes in single precision at least, whatever the model's, since it is trained from nothing and its
outputs are compared with one another.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from adaptbench.methods.delta import Delta, Piece
from adaptbench.models.encoders import Encoder

INIT_SCALE = 0.02  # as transformers draws the heads of BERT and RoBERTa


class Dense(nn.Module):
    """x W + b with a leading run axis; W is drawn from N(0, init_scale^2), b starts at zero."""

    def __init__(self, runs: int, d_in: int, d_out: int, init_scale: float):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(runs, d_in, d_out))
        self.bias = nn.Parameter(torch.zeros(runs, 1, d_out))
        self.init_scale = init_scale

    def draw(self, generators: Sequence[torch.Generator]) -> None:
        with torch.no_grad():
            for run, generator in enumerate(generators):
                self.weight[run].normal_(0, self.init_scale, generator=generator)

    def forward(self, states: Tensor) -> Tensor:  # (R, M, D_in) -> (R, M, D_out)
        dtype = torch.promote_types(states.dtype, self.weight.dtype)
        return torch.baddbmm(self.bias.to(dtype), states.to(dtype), self.weight.to(dtype))


class ClassificationHead(Piece):
    """tanh(x D + d) U + u: C scores of a text, or a number (C = 1), from the state that stands for it.

    Dropout before each of the two maps as in `RobertaClassificationHead` of transformers; in BERT the first map is the
    pooler, here drawn anew. A head does not train (no dropout) until `train()` is called.
    """

    def __init__(self, runs: int, width: int, classes: int, dropout: float = 0.1, init_scale: float = INIT_SCALE):
        super().__init__()
        self.dense = Dense(runs, width, width, init_scale)
        self.project = Dense(runs, width, classes, init_scale)
        self.dropout = dropout
        self.eval()

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        self.dense.draw(generators)
        self.project.draw(generators)

    def forward(self, states: Tensor) -> Tensor:  # (R, B, D) -> (R, B, C)
        inner = self.dense(nn.functional.dropout(states, self.dropout, self.training)).tanh()
        return self.project(nn.functional.dropout(inner, self.dropout, self.training))


class SpanHead(Piece):
    """x U + u: how much each position looks like the start of the answer, and how much like its end."""

    def __init__(self, runs: int, width: int, init_scale: float = INIT_SCALE):
        super().__init__()
        self.project = Dense(runs, width, 2, init_scale)
        self.eval()

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        self.project.draw(generators)

    def forward(self, states: Tensor) -> Tensor:  # (R, M, D) -> (R, M, 2)
        return self.project(states)


def start_head(encoder: Encoder, piece: Piece, seeds: Sequence[int]) -> Delta:
    """A delta that holds a head alone, with the initial values of the runs of these seeds.

    A run's head is drawn by a generator of its own, apart from the one that its method's pieces are drawn by: the two
    would begin with the same numbers.
    """
    head = Delta(len(seeds))
    head.share("head", piece)
    if encoder.device.type == "meta":
        return head.to("meta")
    return head.initialise([zlib.crc32(f"head {seed}".encode()) for seed in seeds]).to(encoder.device)


def dropout_of(encoder: Encoder) -> float:
    """The share of a text's state that a model's own classifier of transformers drops while it trains.

    In this order: `classifier_dropout`, then what the model drops of its hidden states; 0 where config.json has none.
    """
    names = ("classifier_dropout", "hidden_dropout_prob", "dropout_rate", "resid_pdrop", "dropout")
    values = (getattr(encoder.model.config, name, None) for name in names)
    return next((float(value) for value in values if value is not None), 0.0)
