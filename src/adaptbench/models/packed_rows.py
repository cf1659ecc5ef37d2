"""The rows of a batch laid end to end, one long row for every run, so that no time goes into padding.

What a model computes token by token it then computes for real tokens alone. Attention needs the rows apart: it takes
them in groups of similar length, each padded to its longest row, since many small products are slower than one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from adaptbench.models.windows import Windows

CALLS = 15_000  # scores of a head that take about as long as the calls of one more group, on the CPU of docs/log.md


@dataclass(frozen=True, eq=False)
class Row:
    """A row of a batch: where its tokens are among those of all long rows, and what they are."""

    start: int
    run: int
    prompt: int  # its tokens,
    answers: tuple[int, ...] = ()  # and those of every choice that follows it
    whole: bool = False  # every token sees every other

    @property
    def length(self) -> int:
        return self.prompt + sum(self.answers)

    @property
    def causal(self) -> bool:
        """Whether every token sees all before it."""
        return not any(self.answers) and not self.whole

    @property
    def mask(self) -> Tensor:
        """(T, T) True where a query sees a key: the prompt is causal, and each choice sees it and itself."""
        mask = torch.ones(self.length, self.length, dtype=torch.bool)
        if self.whole:
            return mask
        mask = mask.tril()
        start = self.prompt
        for answer in self.answers:
            mask[start + answer :, start : start + answer] = False
            start += answer
        return mask


class Group:
    """n rows of similar length, as a batch that is padded to L tokens."""

    def __init__(self, rows: Sequence[Row]):
        self.rows = rows
        self.longest = max(row.length for row in rows)

    @cached_property
    def mask(self) -> Tensor:
        """(n, 1, L, L). A place without a token sees itself, as a query must see something."""
        mask = torch.eye(self.longest, dtype=torch.bool).repeat(len(self.rows), 1, 1)
        for padded, row in zip(mask, self.rows, strict=True):
            padded[: row.length, : row.length] = row.mask
        return mask[:, None]

    @property
    def causal(self) -> bool:
        """Whether every token sees all before it in its row; the padding of a shorter row comes after them."""
        return all(row.causal for row in self.rows)

    @cached_property
    def runs(self) -> Tensor:
        """(n,) the run of every row."""
        return torch.tensor([row.run for row in self.rows])

    @cached_property
    def _real(self) -> Tensor:
        """(n, L) True where a token is."""
        return torch.arange(self.longest) < torch.tensor([row.length for row in self.rows])[:, None]

    @cached_property
    def places(self) -> Tensor:
        """(n * L,) which token stands there, among those of all long rows; where none does, the row's first."""
        starts = torch.tensor([row.start for row in self.rows])[:, None]
        return (starts + torch.arange(self.longest) * self._real).flatten()

    @cached_property
    def tokens(self) -> Tensor:
        """Where its tokens are among n * L."""
        return self._real.flatten().nonzero()[:, 0]

    def of(self, states: Tensor) -> Tensor:
        """(all tokens, ...) -> (n, L, ...), of its own tokens."""
        return states.index_select(0, self.places).unflatten(0, (len(self.rows), self.longest))

    def kept(self, states: Tensor) -> Tensor:
        """(n, L, ...) -> (its tokens, ...), without padding."""
        own = states.flatten(0, 1)
        return own if len(self.tokens) == len(own) else own.index_select(0, self.tokens)


class PackedRows:
    """The rows of a batch in one long row for every run."""

    def __init__(self, rows: Sequence[Row], positions: Tensor, before: int = 0):
        """Args:
        positions: (R, T) of all tokens in the long rows.
        before: tokens that every row has read before.
        """
        ordered = sorted(rows, key=lambda row: row.length)
        ranges = partition([row.length for row in ordered], before)
        self.groups = [Group(ordered[start:stop]) for start, stop in ranges]
        self._shape = positions.shape
        self._windows = [Windows(group.of(positions.flatten())) for group in self.groups]
        self._added: dict[tuple[int, torch.dtype], Tensor] = {}
        self._made: dict[tuple[int, int, int | None, bool], Tensor] = {}

    def visible(self, index: int, before: int, window: int | None, held: bool) -> Tensor:
        """A group's mask (n, 1, L, P + L) where P columns stand before a row's own; all layers ask for the same.

        Args:
            window: None if nothing is too far away to be seen.
            held: the columns are tokens, and a window may hide them.
        """
        key = index, before, window, held
        if key not in self._made:
            mask = pad(self.groups[index].mask, (before, 0), value=True) if before else self.groups[index].mask
            if window:
                near = self._windows[index].visible(window, before if held else 0)
                mask = mask & pad(near, (0 if held else before, 0), value=True)
            self._made[key] = mask
        return self._made[key]

    def added(self, index: int, dtype: torch.dtype) -> Tensor:
        """A group's mask (n, 1, L, L) as a summand of the scores."""
        if (index, dtype) not in self._added:
            mask = self.groups[index].mask
            self._added[index, dtype] = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, -torch.inf)
        return self._added[index, dtype]

    def scores(self, before: int) -> int:
        """How many a head computes over all rows, each after so many columns."""
        return sum(len(group.rows) * group.longest * (before + group.longest) for group in self.groups)

    def joined(self, states: Sequence[Tensor]) -> Tensor:
        """Every group's (n, L, ...) -> (R, T, ...); at the end of a run that is shorter than others, whatever."""
        kept = torch.cat([group.kept(own) for group, own in zip(self.groups, states, strict=True)])
        return kept.index_select(0, self._order).unflatten(0, self._shape)

    @cached_property
    def _order(self) -> Tensor:
        """(R * T,) where each place's token is among those of one group after another."""
        order = torch.zeros(self._shape.numel(), dtype=torch.long)
        places = torch.cat([group.places[group.tokens] for group in self.groups])
        order[places] = torch.arange(len(places))
        return order


def partition(lengths: Sequence[int], before: int = 0) -> list[tuple[int, int]]:
    """Which rows, in ascending order of their length, form groups: the ranges that take the least time together.

    A group of n rows that are padded to L tokens takes `CALLS` + n L (before + L).
    """
    best: list[tuple[int, int]] = [(0, 0)]  # of the first j rows: the least cost, and where the last group begins
    for stop in range(1, len(lengths) + 1):
        each = lengths[stop - 1] * (before + lengths[stop - 1])
        best.append(min((best[start][0] + CALLS + (stop - start) * each, start) for start in range(stop)))
    ranges, stop = [], len(lengths)
    while stop:
        start = best[stop][1]
        ranges.append((start, stop))
        stop = start
    return ranges[::-1]


@dataclass(frozen=True, eq=False)
class LongRows:
    """Where the tokens of N rows, in equal blocks of R runs, go in R long rows of T tokens."""

    real: Tensor  # (N, W) True where a token is
    runs: int
    places: Tensor  # (N, W) of every token its place among R * T
    starts: Tensor  # (N,) of every row its first
    length: int  # T

    @classmethod
    def of(cls, real: Tensor, runs: int) -> "LongRows":
        """The rows of every run end to end."""
        ends = real.sum(1).view(runs, -1).cumsum(1)
        length = int(ends.max())
        run = torch.arange(runs, device=real.device)[:, None] * length
        starts = (run + ends).flatten() - real.sum(1)
        return cls(real, runs, starts[:, None] + real.cumsum(1) - 1, starts, length)

    def put(self, each: Tensor, fill: int = 0) -> Tensor:
        """(N, W) -> (R, T), without padding but at a run's end."""
        empty = each.new_full((self.runs * self.length,), fill)
        return empty.index_put((self.places[self.real],), each[self.real]).view(self.runs, self.length)

    @property
    def all_real(self) -> Tensor:
        """(1, 1, 1, T) for a model that wants a mask: it is not asked (`models/attention.py`)."""
        return self.real.new_ones(1, 1, 1, self.length)
