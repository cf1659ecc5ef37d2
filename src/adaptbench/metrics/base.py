"""What a metric is: statistics of every item, and a score that is computed from their sum.

A score that depends on sums over items alone can be bootstrapped cheaply, corpus-level ones such as F1 or BLEU too:
`aggregate(draws @ statistics)` scores B bootstrap draws at once, where draws (B, N) says how often each item is drawn.

Letters: N items, k statistics of an item, C classes, B bootstrap draws.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from adaptbench.errors import InputError

Array = NDArray[np.floating]
Values = Sequence | NDArray

METRICS: dict[str, "Metric"] = {}


@dataclass(frozen=True)
class Metric:
    """One way to judge answers. `statistics` looks at one item, `aggregate` at the sum over items."""

    name: str
    """Key of its score in records: `scores.<name>`."""
    label: str
    """What tables call it."""
    answers: str
    """Kind of answer it judges: "label" (class index, int), "number" (float) or "text" (str)."""
    statistics: Callable[[Any, Any, int], ArrayLike]
    """(answer, reference, classes) -> (k,) of one item; classes is 0 where there are none. The reference of a text
    is the sequence of all acceptable texts."""
    aggregate: Callable[[Array], Array]
    """Sums (..., k) -> scores (...). Never raises. Sums need not be whole numbers: an item that is phrased by several
    templates counts by the mean of its statistics."""
    prepare: Callable[[Values, Values], tuple[Values, Values]] | None = None
    """Looks at all answers and references before the statistics are computed, for instance to rank them. Statistics
    from two calls then do not belong to one sum."""
    chance: Callable[[Sequence[int]], float] | None = None
    """Expected score of guessing uniformly, from the number of choices of every item; None where that says nothing."""
    lowest: float = 0.0
    """The least score that there is."""
    highest: float = 1.0
    """The best score: 100 for BLEU and chrF."""
    signature: Callable[..., str] | None = None
    """How a library computes it, for the record; with the references as argument, their number is part of it."""
    by_class: bool = False
    """Tells classes apart, and says nothing where each item has choices of its own."""
    binary: bool = False
    """Judges two classes only."""
    broadcasts: bool = False
    """`statistics` takes (N,) answers and references as well, and gives (N, k): thousands of labels in one call."""

    def suits(self, classes: int) -> bool:
        """Is it defined for so many classes? 0: there are none."""
        return classes == 2 if self.binary else classes > 0 or not self.by_class

    def check(self, classes: int = 0) -> None:
        """Find fault before anything is computed.

        Raises:
            InputError: it is not defined for so many classes, or its library is not installed.
        """
        if not self.suits(classes):
            others = ", ".join(metric.name for metric in metrics_for(self.answers, classes))
            found = f"judges two classes, but there are {classes}" if classes else "there is no number of classes"
            raise InputError(f"metric {self.name}: {found}; use one of {others}")
        if self.signature is not None:
            self.signature()

    def per_item(self, answers: Values, references: Values, classes: int = 0) -> Array:
        """Statistics of all items, (N, k).

        Args:
            answers: (N,) labels, numbers or texts. A label outside of range(classes) is an answer that is no class.
            references: (N,) labels or numbers, or for each item the texts that are acceptable.
            classes: number of classes of labels, 0 elsewhere.

        Raises:
            InputError: nothing to judge, an item without a usable reference, or what `check` finds.
        """
        self.check(classes)
        if len(answers) != len(references):
            raise ValueError(f"metric {self.name}: {len(answers)} answers, but {len(references)} references")
        if not len(answers):
            raise InputError(f"metric {self.name}: there are no items to judge")
        if self.answers == "label":
            _check_labels(self.name, np.asarray(references), classes)
        elif self.answers == "text":
            _check_texts(self.name, references)
        if self.prepare is not None:
            answers, references = self.prepare(answers, references)
        if self.broadcasts:
            return np.asarray(self.statistics(np.asarray(answers), np.asarray(references), classes), dtype=float)
        pairs = zip(answers, references, strict=True)
        return np.array([self.statistics(answer, reference, classes) for answer, reference in pairs], dtype=float)

    def score(self, answers: Values, references: Values, classes: int = 0) -> float:
        """The score of all items, from `lowest` to `highest` up to rounding; arguments and errors as for `per_item`."""
        return float(self.aggregate(total(self.per_item(answers, references, classes))))


def register(metric: Metric) -> Metric:
    """Make a metric known under its name.

    Raises:
        ValueError: another one has this name.
    """
    if metric.name in METRICS:
        raise ValueError(f"there are two metrics named {metric.name!r}")
    METRICS[metric.name] = metric
    return metric


def get(name: str) -> Metric:
    """The metric of this name.

    Raises:
        InputError: names those that are known.
    """
    if name not in METRICS:
        raise InputError(f"metric={name}: unknown; known are {', '.join(METRICS)}")
    return METRICS[name]


def metrics_for(kind: str, classes: int | None = None) -> tuple[Metric, ...]:
    """The metrics that judge answers of this kind ("label", "number", "text"), the kind's default first.

    With a number of classes, only those that are defined for so many; 0: there are none.

    Raises:
        InputError: no metric judges this kind.
    """
    kinds = dict.fromkeys(metric.answers for metric in METRICS.values())
    if kind not in kinds:
        raise InputError(f"no metric judges answers of kind {kind!r}; known kinds are {', '.join(kinds)}")
    judging = (metric for metric in METRICS.values() if metric.answers == kind)
    return tuple(metric for metric in judging if classes is None or metric.suits(classes))


def total(statistics: Array) -> Array:
    """Sum over items: (..., N, k) -> (..., k).

    numpy sums pairwise along a contiguous axis only; so a mean of shares is np.mean's to the last bit.
    """
    return np.ascontiguousarray(np.swapaxes(statistics, -1, -2)).sum(axis=-1)


def mean_by_item(uids: Sequence[str], statistics: Array) -> Array:
    """(M, k) statistics of rows in their templates -> (N, k) of rows."""
    if len(set(uids)) == len(uids):
        return statistics
    groups: dict[str, list[int]] = {}
    for position, uid in enumerate(uids):
        groups.setdefault(uid, []).append(position)
    return np.array([statistics[positions].mean(axis=0) for positions in groups.values()])


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> Array:
    """numerator / denominator elementwise, and 0 where the denominator is 0."""
    numerator, denominator = np.broadcast_arrays(np.asarray(numerator, float), np.asarray(denominator, float))
    return np.divide(numerator, denominator, out=np.zeros(numerator.shape), where=denominator != 0)


def mean(sums: Array) -> Array:
    """`aggregate` of metrics that are a mean over items, whose statistics are (value, 1): (..., 2) -> (...)."""
    return ratio(sums[..., 0], sums[..., 1])


def share_of_choices(choices: Sequence[int]) -> float:
    """`chance` of being right: the mean over items of one in their number of choices."""
    return float(np.mean([1 / number for number in choices]))


def one_hot(labels: ArrayLike, classes: int) -> Array:
    """(...) -> (..., C); all zero for a label that is none of the classes."""
    return np.equal(np.asarray(labels)[..., None], np.arange(classes)).astype(float)


def _check_labels(name: str, references: NDArray, classes: int) -> None:
    wrong = (references < 0) | (references >= classes if classes else False)
    if wrong.any():
        first = int(np.argmax(wrong))
        expected = f"0 to {classes - 1}" if classes else "0 or more"
        raise InputError(f"metric {name}: item {first} has label {references[first]}, expected {expected}")


def _check_texts(name: str, references: Values) -> None:
    for item, acceptable in enumerate(references):
        if isinstance(acceptable, str) or not len(acceptable):
            raise InputError(f"metric {name}: item {item} has {acceptable!r}, expected a list of acceptable texts")
