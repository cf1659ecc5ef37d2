"""The rows of a batch laid end to end in a single one, so that no time goes into padding.

What a model computes token by token it then computes for real tokens alone. Attention needs the rows apart: it takes
them in groups of similar length, each padded to its longest row, since many small products are slower than one.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from adaptbench.models.windows import Windows

CALLS = 15_000  # scores of a head that take as long as the calls of one more group (docs/log.md)


class Group:
    """Some of the rows, one after another: tokens `start` to `stop` of all."""

    def __init__(self, masks: Sequence[Tensor], start: int):
        """Args:
        masks: of every row (T_i, T_i), True where a query sees a key.
        """
        self.lengths = [len(mask) for mask in masks]
        self.start, self.stop = start, start + sum(self.lengths)
        self.longest = max(self.lengths)
        self._masks = masks

    @cached_property
    def mask(self) -> Tensor:
        """(n, 1, L, L): the masks, padded. A place without a token sees itself, as a query must see something."""
        mask = torch.eye(self.longest, dtype=torch.bool).repeat(len(self.lengths), 1, 1)
        for row, own in zip(mask, self._masks, strict=True):
            row[: len(own), : len(own)] = own
        return mask[:, None]

    @cached_property
    def real(self) -> Tensor:
        """(n * L,) True where a token is."""
        return (torch.arange(self.longest) < torch.tensor(self.lengths)[:, None]).flatten()

    @cached_property
    def _places(self) -> Tensor:
        """(n * L,) which of all tokens stands there; where none does, any."""
        return self.start + (self.real.cumsum(0) - 1)

    @cached_property
    def _tokens(self) -> Tensor:
        """(stop - start,) the places of its tokens among n * L."""
        return self.real.nonzero()[:, 0]

    @property
    def _padded(self) -> bool:
        return len(self.lengths) * self.longest > self.stop - self.start

    def of(self, states: Tensor) -> Tensor:
        """(T, ...) states of all tokens -> (n, L, ...) of this group's."""
        own = states.index_select(0, self._places) if self._padded else states[self.start : self.stop]
        return own.unflatten(0, (len(self.lengths), self.longest))

    def back(self, states: Tensor) -> Tensor:
        """(n, L, ...) -> (stop - start, ...), one row after another."""
        own = states.flatten(0, 1)
        return own.index_select(0, self._tokens) if self._padded else own


class PackedRows:
    """The rows of a batch in one, shortest first."""

    def __init__(self, masks: Sequence[Tensor], positions: Tensor, before: int = 0):
        """Args:
        masks: of every row (T_i, T_i), True where a query sees a key; T_i must not decrease.
        positions: (T,) of all tokens, T being the sum of the T_i.
        before: tokens that every row has read before.
        """
        self.groups: list[Group] = []
        for start, stop in partition([len(mask) for mask in masks], before):
            self.groups.append(Group(masks[start:stop], self.groups[-1].stop if self.groups else 0))
        self._windows = [Windows(group.of(positions)) for group in self.groups]
        self._made: dict[tuple[int, int | None, bool], list[Tensor]] = {}

    def visible(self, before: int, window: int | None, held: bool) -> list[Tensor]:
        """Every group's mask (n, 1, L, P + L) where P columns stand before a row's own; all layers ask for the same.

        Args:
            window: None if nothing is too far away to be seen.
            held: the columns are tokens, and a window may hide them.
        """
        key = before, window, held
        if key not in self._made:
            masks = [pad(group.mask, (before, 0), value=True) for group in self.groups]
            if window:
                near = [windows.visible(window, before if held else 0) for windows in self._windows]
                masks = [m & pad(n, (0 if held else before, 0), value=True) for m, n in zip(masks, near, strict=True)]
            self._made[key] = masks
        return self._made[key]

    def scores(self, before: int) -> int:
        """How many a head computes over all rows, each after so many columns."""
        return sum(len(group.lengths) * group.longest * (before + group.longest) for group in self.groups)


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
