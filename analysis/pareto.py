"""The Pareto front: the methods that no other beats at their cost, and how surely they are among them.

An arm is *dominated* if another one has at least its score at no more than its cost, one of them strictly. Scores are
uncertain, so every arm has the probability of being undominated: the share of bootstrap replicates in which it is.
Seeds and items are drawn once for all arms, as comparisons are paired; costs are held at their typical value.

Letters: A arms, S seeds, N evaluation items, B bootstrap replicates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis import statistics as stats
from analysis.pretraining import ADAPTING, SHARED
from analysis.statistics import Array
from analysis.summary import Arm, DatasetScores, Summary
from analysis.typeset import Panel, Table, percent, power, significant, size

WORTH_NAMING = 0.1  # the probability from which an arm beside the front is in the table
FORGETTING = "forgetting.nats_per_token"  # not every record has it


@dataclass(frozen=True)
class Axis:
    """A cost that scores are held against."""

    name: str
    label: str
    cost: Callable[[Arm], float | None]  # None where it was not measured
    text: Callable[[float | None], str]


@dataclass(frozen=True)
class Member:
    """An arm among those that are compared on an axis."""

    arm: Arm
    cost: float
    on_front: bool
    probability: float  # of being on the front


def percent_text(value: float | None) -> str:
    return f"{significant(value)} %"


def flops_per_prediction(arm: Arm) -> float | None:
    """Counted ones, or the formula's where none were counted."""
    return arm.typical("flops.predict.measured") or arm.typical("flops.predict.paper")


def forgetting(arm: Arm) -> float | None:
    """By how much adapting has raised the loss on other text; None where it was not measured."""
    known = FORGETTING in arm.records and bool(arm.records[FORGETTING].notna().any())
    return arm.typical(FORGETTING) if known else None


AXES = {
    axis.name: axis
    for axis in (
        Axis("flops_predict", "FLOPs per prediction", flops_per_prediction, power),
        Axis("parameters", "Parameters updated", lambda arm: arm.percent_updated, percent_text),
        Axis("flops_adapt", "FLOPs to adapt", lambda arm: arm.typical(ADAPTING), power),
        Axis("memory_adapt", "Peak memory to adapt", lambda arm: arm.highest("memory.adapt.peak_bytes"), size),
        Axis("memory_predict", "Peak memory to predict", lambda arm: arm.highest("memory.predict.peak_bytes"), size),
        Axis("storage", "Storage", lambda arm: arm.typical("storage.bytes"), size),
        Axis("forgetting", "Forgetting, nats per token", forgetting, significant),
    )
}


# -- who is undominated -------------------------------------------------------------------------------------------


def undominated(scores: ArrayLike, costs: ArrayLike) -> NDArray[np.bool_]:
    """Scores (A, ...) and costs (A,) -> (A, ...): which arms no other dominates; leading axis arms, others replicates.

    Arms of the same score and cost do not dominate each other.
    """
    scores, costs = np.asarray(scores, dtype=float), np.asarray(costs, dtype=float)
    found = np.zeros(scores.shape, dtype=bool)
    cheaper = np.full(scores.shape[1:], -np.inf)  # the highest score at a lower cost
    for cost in np.unique(costs):
        equal = costs == cost
        highest = scores[equal].max(axis=0)
        found[equal] = (scores[equal] >= highest - stats.TOLERANCE) & (scores[equal] > cheaper + stats.TOLERANCE)
        cheaper = np.maximum(cheaper, highest)
    return found


@lru_cache(maxsize=1)
def fronts(summary: Summary) -> dict[str, list[Member]]:
    """Axis -> the arms that ran on every dataset and have that cost, the cheapest first."""
    arms = [arm for arm in summary.arms if arm.covers_all]
    if not arms:
        return {}
    scores, replicates = np.array([arm.score for arm in arms]), joint_bootstrap(arms)
    found = {}
    for axis in AXES.values():
        costs = [axis.cost(arm) for arm in arms]
        known = [position for position, cost in enumerate(costs) if cost is not None]
        if known:
            spent = np.array([costs[position] for position in known], dtype=float)
            on_front, shares = undominated(scores[known], spent), undominated(replicates[known], spent).mean(axis=1)
            columns = (spent.tolist(), on_front.tolist(), shares.tolist())
            members = [Member(arms[position], *of) for position, *of in zip(known, *columns, strict=True)]
            found[axis.name] = sorted(members, key=lambda member: (member.cost, -(member.arm.score or 0)))
    return found


# -- how surely ---------------------------------------------------------------------------------------------------


def joint_bootstrap(arms: Sequence[Arm], replicates: int = stats.REPLICATES, rng_seed: int = stats.RNG_SEED) -> Array:
    """(A, B) replicates of the scores of arms that ran on the same datasets, all from the same draws."""
    datasets = list(arms[0].by_dataset)
    found = np.zeros((len(arms), replicates))
    for stream, name in enumerate(datasets):
        found += joint_replicates([arm.by_dataset[name] for arm in arms], replicates, rng_seed, stream)
    return found / len(datasets)


def joint_replicates(cells: Sequence[DatasetScores], replicates: int, rng_seed: int, stream: int) -> Array:
    """(A, B) replicates of the median over seeds of one dataset's scores.

    Every replicate draws among all seeds and all items that any arm has. What an arm lacks drops out of its score;
    where that leaves no seed, it is scored by all of its own. So arms with the same runs have the replicates of
    `statistics.hierarchical_bootstrap`, its correction for two seeds included.
    """
    seeds = sorted({seed for cell in cells if not answers_once(cell) for seed in cell.seeds}) or [0]
    rng = np.random.default_rng([rng_seed, stream, len(seeds)])
    drawn = rng.integers(0, len(seeds), size=(replicates, len(seeds)))
    uids = all_items(cells)
    found = np.empty((len(cells), replicates))
    for row, cell in enumerate(cells):
        scores = np.full((replicates, len(seeds)), np.nan)
        own = slice(None) if answers_once(cell) else [seeds.index(seed) for seed in cell.seeds]
        scores[:, own] = drawn_scores(cell, uids, replicates, rng_seed, stream)
        these_seeds = median_of_present(scores)
        resampled = median_of_present(np.take_along_axis(scores, drawn, axis=1))
        resampled = np.where(np.isnan(resampled), these_seeds, resampled)
        scale = np.sqrt(2) if len(seeds) == 2 else 1.0
        found[row] = these_seeds + scale * (resampled - these_seeds)
    return found


def answers_once(cell: DatasetScores) -> bool:
    """Whether a single run stands for every seed, as it has seen no draw."""
    return cell.shots == 0 and len(cell.seeds) == 1


def all_items(cells: Sequence[DatasetScores]) -> pd.Index:
    """Every item that any arm has answered."""
    known = [cell.uids for cell in cells if cell.uids is not None]
    return reduce(lambda a, b: a if a.equals(b) else a.union(b, sort=False), known, known[0] if known else pd.Index([]))


def drawn_scores(cell: DatasetScores, uids: pd.Index, replicates: int, rng_seed: int, stream: int) -> Array:
    """(B, S) scores of the drawn items; those of all items where it is not known which item was answered how."""
    recorded = cell.items.scores
    if cell.uids is None:
        return np.broadcast_to(recorded, (replicates, len(recorded)))
    draws = stats.item_draws(len(uids), replicates, rng_seed, stream)
    if not cell.uids.equals(uids):
        draws = draws[:, uids.get_indexer(cell.uids)]
    scores = cell.items.aggregate(stats.drawn_sums(draws, cell.items.statistics))
    return np.where(draws.any(axis=1)[:, None], scores, recorded) if len(cell.uids) < len(uids) else scores


def median_of_present(scores: Array) -> Array:
    """(B, S) with nan for what is not there -> (B,); nan where nothing is."""
    ordered = np.sort(scores, axis=1)  # nan last
    present = np.count_nonzero(~np.isnan(scores), axis=1)[:, None]
    ends = [
        np.take_along_axis(ordered, np.maximum(rank, 0), axis=1)[:, 0] for rank in ((present - 1) // 2, present // 2)
    ]
    return np.where(present[:, 0] > 0, (ends[0] + ends[1]) / 2, np.nan)


# -- the table ----------------------------------------------------------------------------------------------------


def probability_text(probability: float) -> str:
    """100 % only for what is so in every replicate."""
    shown = f"{100 * probability:.0f} %"
    return {"100 %": "> 99 %", "0 %": "< 1 %"}.get(shown, shown) if 0 < probability < 1 else shown


def pareto(summary: Summary) -> Table | None:
    """The front of every cost, and who else may be on it; None where no method ran on every dataset."""
    panels, numbers = [], []
    for name, members in fronts(summary).items():
        axis, rows = AXES[name], []
        for member in members:
            arm = member.arm
            if member.on_front or member.probability >= WORTH_NAMING:
                found = ["yes" if member.on_front else "no", probability_text(member.probability)]
                rows.append([arm.name, arm.model, axis.text(member.cost), percent(arm.score), *found])
            own = {"axis": name, "method": arm.method, "model": arm.model, "variant": arm.variant}
            place = {"on_front": member.on_front, "probability": member.probability}
            numbers.append({**own, "cost": member.cost, "score": arm.score, **place})
        panels.append(Panel(axis.label, rows))
    if not panels:
        return None
    columns = [("", "Method"), ("", "Model"), ("", "Cost"), ("", f"{summary.title_measure}, %")]
    columns += [("On the front", "observed"), ("On the front", "probability")]
    notes = [
        "A method is on the front unless another has at least its score at no more than its cost, one of them "
        "strictly. Probability: the share of bootstrap replicates, of the same seeds and items for all methods and "
        f"with costs as they are, in which it is; methods from {100 * WORTH_NAMING:.0f} % on are listed."
    ]
    if summary.pretrained:
        notes.append(SHARED.format(AXES["flops_adapt"].label))
    if absent := [arm for arm in summary.arms if not arm.covers_all]:
        notes.append(f"Left out, because they did not run on every dataset: {', '.join(map(summary.title, absent))}.")
    return Table("pareto", "Pareto fronts", columns, panels, pd.DataFrame(numbers), 2, notes)
