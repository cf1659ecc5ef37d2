"""The cheapest method whose score cannot be told from the best, among those that fit some limits.

Cheapest by FLOPs in all: adapting once and then some number of predictions, as counted in the records. Pre-training
that a model was given here is in it, shared out over the data sets that start from it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from adaptbench.errors import InputError
from analysis.pretraining import ADAPTING
from analysis.statistics import holm
from analysis.summary import Arm, Comparison, Summary
from analysis.typeset import power, seconds, size

PLAIN = {"": 1.0}
BYTES = {"": 1.0, "b": 1.0} | {
    f"{prefix}{suffix}": base**exponent
    for exponent, prefix in enumerate("kmgt", 1)
    for suffix, base in (("", 1000.0), ("b", 1000.0), ("ib", 1024.0))
}
SECONDS = {"": 1.0, "s": 1.0, "ms": 1e-3, "us": 1e-6}


def peak_memory(arm: Arm) -> float | None:
    """The larger peak of adapting and of predicting; what trains nothing has the latter alone."""
    predicting, adapting = (arm.highest(f"memory.{phase}.peak_bytes") for phase in ("predict", "adapt"))
    if adapting is None and arm.typical("params.trainable") == 0:
        return predicting
    return None if predicting is None or adapting is None else max(predicting, adapting)


def latency(arm: Arm) -> float | None:
    """The longest that the records have of it."""
    columns = [column for column in arm.records if "latency" in str(column).split(".")]
    known = [value for column in columns if (value := arm.records[column].max()) is not None and not math.isnan(value)]
    return max(known, default=None)


@dataclass(frozen=True)
class Resource:
    """What may be limited: how much of it an arm needs, and how an amount is written."""

    need: Callable[[Arm], float | None]  # None where it was not measured
    units: Mapping[str, float]
    example: str
    text: Callable[[float | None], str]


RESOURCES = {
    "memory": Resource(peak_memory, BYTES, "8GB, 512MB or 1e9", size),
    "storage": Resource(lambda arm: arm.typical("storage.bytes"), BYTES, "1MB or 5e4", size),
    "training_flops": Resource(lambda arm: arm.typical(ADAPTING), PLAIN, "1e15", power),
    "latency": Resource(latency, SECONDS, "0.2 or 200ms", seconds),
}


@dataclass(frozen=True)
class Question:
    """What the command line asks."""

    folder: Path
    predictions: int
    limits: Mapping[str, float]
    limits_as_given: str


@dataclass(frozen=True, eq=False)
class Candidate:
    """An arm with its bill."""

    arm: Arm
    once: float
    each: float | None  # None where not counted, and no prediction is asked for
    total: float

    def over(self, limits: Mapping[str, float]) -> dict[str, float | None]:
        """The limits it exceeds, and what it needs of each; None where nobody knows."""
        needs = {name: RESOURCES[name].need(self.arm) for name in limits}
        return {name: need for name, need in needs.items() if need is None or need > limits[name]}


@dataclass(frozen=True)
class Advice:
    """The answers (several where they are equally cheap), and all others in the order of the table."""

    question: Question
    answers: Sequence[Candidate]
    best: Candidate  # of highest score, of those that fit
    dearer: Sequence[Candidate]  # as good as the best
    worse: Sequence[Candidate]
    unfit: Sequence[Candidate]
    against_best: Mapping[tuple[str, str, str], Comparison | None]  # adjusted over the comparisons with the best


def advise(summary: Summary, asked: Question) -> Advice:
    """The cheapest of the methods that fit and that are not significantly below the best of them.

    Raises:
        InputError: nothing can be billed, or nothing fits.
    """
    candidates = billed(summary, asked)
    if "latency" in asked.limits and all(latency(candidate.arm) is None for candidate in candidates):
        raise InputError(f"{asked.limits_as_given}: the records in {asked.folder} have no latency")
    fitting = [candidate for candidate in candidates if not candidate.over(asked.limits)]
    if not fitting:
        raise InputError(f"{asked.limits_as_given}: no method fits; {closest(summary, candidates, asked.limits)}")
    best = max(fitting, key=lambda candidate: (candidate.arm.score or 0, -candidate.total))
    pairs = compared(summary, best, fitting)
    good = [candidate for candidate in fitting if candidate is best or is_as_good(pairs[candidate.arm.key])]
    least = min(candidate.total for candidate in good)
    answers = [candidate for candidate in good if math.isclose(candidate.total, least, rel_tol=1e-9)]
    return Advice(
        asked,
        sorted(answers, key=lambda candidate: -(candidate.arm.score or 0)),
        best,
        [candidate for candidate in good if candidate not in answers],
        [candidate for candidate in fitting if candidate not in good],
        [candidate for candidate in candidates if candidate not in fitting],
        pairs,
    )


def billed(summary: Summary, asked: Question) -> list[Candidate]:
    """The arms that ran on every data set and whose FLOPs were counted, the cheapest first."""
    found = []
    for arm in summary.arms:
        once, each = arm.typical(ADAPTING), arm.typical("flops.predict.measured")
        if arm.covers_all and once is not None and (each is not None or asked.predictions == 0):
            found.append(Candidate(arm, once, each, once + asked.predictions * (each or 0.0)))
    if not found:
        raise InputError(f"{asked.folder}: no method ran on every data set and had its FLOPs counted")
    return sorted(found, key=lambda candidate: candidate.total)


def compared(
    summary: Summary, best: Candidate, fitting: Sequence[Candidate]
) -> dict[tuple[str, str, str], Comparison | None]:
    """Every other candidate less the best, adjusted over these comparisons alone; None where they share no run."""
    found = {c.arm.key: summary.compare(c.arm, best.arm) for c in fitting if c is not best}
    known = {key: pair for key, pair in found.items() if pair is not None}
    adjusted = dict(zip(known, holm([pair.p for pair in known.values()]), strict=True))
    return {key: pair and replace(pair, p_holm=float(adjusted[key])) for key, pair in found.items()}


def is_as_good(pair: Comparison | None) -> bool:
    """Not significantly below the best. Methods that share no run cannot be said to be as good."""
    return pair is not None and not (pair.significant and pair.difference < 0)


def closest(summary: Summary, candidates: Sequence[Candidate], limits: Mapping[str, float]) -> str:
    """The candidate that exceeds its limits by the smallest factor."""

    def excess(needs: Mapping[str, float | None]) -> tuple[float, float]:
        known = {name: math.inf if need is None else need for name, need in needs.items()}
        factors = [need / limits[name] if limits[name] else math.inf for name, need in known.items()]
        return max(factors), sum(known.values())

    nearest = min(candidates, key=lambda candidate: excess(candidate.over(limits)))
    needs = nearest.over(limits).items()
    told = [f"{name} {RESOURCES[name].text(need) if need is not None else 'not measured'}" for name, need in needs]
    return f"the closest is {summary.title(nearest.arm)} ({', '.join(told)})"
