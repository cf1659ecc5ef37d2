"""Heads on bare models: scores of classes, a number, or where an answer starts and ends, for R runs at once.

A head is a piece like any other (`models/delta.py`): its parameters have a leading run axis, and it sees the states of
each run alone. It computes in single precision at least, whatever the model's, since it is trained from nothing and its
outputs are compared with one another.
"""

import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN

from adaptbench.models.delta import Delta, Piece
from adaptbench.models.encoders import LAST, Encoder

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
    """f(x D + d) U + u: C scores of a text, or a number (C = 1), from the state x that stands for it.

    Without an activation f the head is the one map x U + u. Dropout before each map as in `RobertaClassificationHead`
    of transformers; in BERT the first map is the pooler, here drawn anew. A head does not train (no dropout) until
    `train()` is called.
    """

    def __init__(
        self,
        runs: int,
        width: int,
        classes: int,
        activation: str | None = "tanh",  # as transformers names it
        dropout: float = 0.1,
        init_scale: float = INIT_SCALE,
    ):
        super().__init__()
        self.dense = Dense(runs, width, width, init_scale) if activation else None
        self.activation = ACT2FN[activation] if activation else None
        self.project = Dense(runs, width, classes, init_scale)
        self.dropout = dropout
        self.eval()

    def initialise(self, generators: Sequence[torch.Generator]) -> None:
        if self.dense is not None:
            self.dense.draw(generators)
        self.project.draw(generators)

    def forward(self, states: Tensor) -> Tensor:  # (R, B, D) -> (R, B, C)
        if self.dense is not None and self.activation is not None:
            states = self.activation(self.dense(nn.functional.dropout(states, self.dropout, self.training)))
        return self.project(nn.functional.dropout(states, self.dropout, self.training))


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


def classification_head(encoder: Encoder, runs: int, classes: int, linear: bool = False) -> ClassificationHead:
    """The head that transformers' own classifier of such a model has, for R runs.

    BERT, RoBERTa and T5 have two maps with tanh between them, DeBERTa with its pooler's activation. A decoder has one
    map, here with a bias; and so has every model where `linear` is asked for.
    """
    activation = (
        None if linear or encoder.pooling == LAST else getattr(encoder.model.config, "pooler_hidden_act", "tanh")
    )
    return ClassificationHead(runs, encoder.width, classes, activation, dropout_of(encoder))


def dropout_of(encoder: Encoder) -> float:
    """The share of a text's state that a model's own classifier of transformers drops while it trains.

    In this order: `classifier_dropout` (DeBERTa: `cls_dropout`), then what the model drops of its hidden states; 0
    where config.json has none, and in a decoder's classifier.
    """
    if encoder.pooling == LAST:
        return 0.0
    names = ("classifier_dropout", "cls_dropout", "hidden_dropout_prob", "dropout_rate")
    values = (getattr(encoder.model.config, name, None) for name in names)
    return next((float(value) for value in values if value is not None), 0.0)
