"""What these records say to the claims of arXiv 2205.05638: a verdict with paired intervals for each, whatever it is.

T-Few stands for tuning where it ran, else (IA)^3, its method: chosen by the paper, and not by its score here.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from analysis import ablations
from analysis.extensions import data_sets
from analysis.pretraining import ADAPTING
from analysis.summary import Arm, Comparison, Summary, adjusted
from analysis.typeset import power, powers, signed, significant
from analysis.verdicts import best

Pair = tuple[Arm, Arm]
NOT_ASKED = "Not asked by this experiment."


@dataclass(frozen=True)
class Claim:
    """What the paper says of the first of a pair and the second: that it scores higher."""

    title: str
    pairs: Callable[[Summary], Iterator[Pair]]


def verdicts(summary: Summary) -> list[tuple[str, list[str]]]:
    """Claim -> its verdict; nothing where the paper's tuning did not run.

    p-values are adjusted (Holm) over the comparisons of all claims together.
    """
    if not summary.as_in_the_paper or tuned_arm(summary) is None:
        return []
    found = [(claim, pair) for claim in CLAIMS for pair in compared(claim, summary)]
    pairs = list(zip((claim for claim, _ in found), adjusted(pair for _, pair in found), strict=True))
    told = [(claim.title, verdict(summary, [pair for asked, pair in pairs if asked is claim])) for claim in CLAIMS]
    told[1:1] = [("A prediction costs less than with in-context learning", cost(summary))]
    return [(title, sentences or [NOT_ASKED]) for title, sentences in (*told, ingredients(summary))]


def tuned_arm(summary: Summary) -> Arm | None:
    """The paper's tuning: T-Few, or else (IA)^3."""
    return of_method(summary, "t_few") or of_method(summary, "ia3")


def compared(claim: Claim, summary: Summary) -> list[Comparison]:
    pairs = (summary.compare(first, second) for first, second in claim.pairs(summary))
    return [pair for pair in pairs if pair is not None]


def verdict(summary: Summary, pairs: Sequence[Comparison]) -> list[str]:
    """Whether the first of each pair is above the second: of all, of some, of none, or the other way round."""
    if not pairs:
        return []
    above = [pair for pair in pairs if pair.significant and pair.difference > 0]
    below = [pair for pair in pairs if pair.significant and pair.difference < 0]
    if below:
        said = f"Holds against {len(above)} of {len(pairs)}, reversed in {len(below)}" if above else "Does not hold"
    elif len(above) == len(pairs):
        said = "Holds"
    else:
        said = f"Holds against {len(above)} of {len(pairs)}" if above else "These runs cannot tell"
    told = ", ".join(difference(summary, pair) for pair in sorted(pairs, key=lambda pair: pair.difference))
    return [f"{said}. {summary.title(pairs[0].first)}, in points of paired runs, against {told}."]


def difference(summary: Summary, pair: Comparison) -> str:
    on = "" if pair.datasets == len(summary.datasets) else f"; {data_sets(pair.datasets)}"
    untold = "" if pair.significant else "; not significant"
    bounds = f"{signed(pair.difference)}; {signed(pair.low)} to {signed(pair.high)}{on}{untold}"
    return f"{summary.title(pair.second)} ({bounds})"


def cost(summary: Summary) -> list[str]:
    """FLOPs of a prediction, and after how many of them tuning has cost less in all."""
    tuned = tuned_arm(summary)
    assert tuned is not None
    told = []
    for arm in summary.arms:
        shared = [name for name in arm.by_dataset if name in tuned.by_dataset]
        if arm.family != "icl" or arm.variant or not shared:
            continue
        mine, theirs = (one.typical("flops.predict.measured", shared) for one in (tuned, arm))
        spent, read = (one.typical(ADAPTING, shared) for one in (tuned, arm))
        if mine is None or theirs is None or spent is None:
            continue
        after = (spent - (read or 0.0)) / (theirs - mine) if theirs > mine else None
        paid = "never paid back" if after is None else f"paid back after {significant(max(after, 0.0))} predictions"
        where = "" if len(shared) == len(summary.datasets) else f"; {data_sets(len(shared))}"
        told.append(f"{summary.title(arm)} {significant(theirs / mine)} times as many ({paid}{where})")
    each, once = (tuned.typical(measure, tuned.by_dataset) for measure in ("flops.predict.measured", ADAPTING))
    if not told or each is None or once is None:
        return []
    own = f"{summary.title(tuned)} takes {powers(power(each))} FLOPs, and {powers(power(once))} once to adapt"
    return [f"{own}. Against it, a prediction takes with {', '.join(told)}."]


def ingredients(summary: Summary) -> tuple[str, list[str]]:
    """What the unlikelihood and length-normalised losses and pre-training bring, where an ablation asked."""
    return "T-Few's losses and pre-training help", [ablations.verdict(r) for r in ablations.results(summary)]


# -- who is compared ----------------------------------------------------------------------------------------------


def against(family: str) -> Callable[[Summary], Iterator[Pair]]:
    """The paper's tuning against every other arm of a family."""

    def pairs(summary: Summary) -> Iterator[Pair]:
        tuned = tuned_arm(summary)
        for arm in summary.arms:
            if tuned is not None and arm.family == family and arm.by_dataset and not arm.variant and arm is not tuned:
                yield tuned, arm

    return pairs


def against_methods(summary: Summary) -> Iterator[Pair]:
    """(IA)^3 against the other parameter-efficient methods on its model."""
    own = of_method(summary, "ia3")
    if own is None:
        return
    for arm in summary.arms:
        other = arm.family == "peft" and arm.method not in ("ia3", "t_few")
        if other and arm.model == own.model and arm.covers_all and not arm.variant:
            yield own, arm


def against_full(summary: Summary) -> Iterator[Pair]:
    own, full = of_method(summary, "ia3"), best(summary, "full")
    if own is not None and full is not None:
        yield own, full


def of_method(summary: Summary, method: str) -> Arm | None:
    """The arm of a method that ran on every data set; of several models the one on which it scores highest."""
    arms = [arm for arm in summary.arms if arm.method == method and arm.covers_all and not arm.variant]
    return max(arms, key=lambda arm: arm.score or 0, default=None)


CLAIMS = (
    Claim("Few-shot tuning scores higher than in-context learning", against("icl")),
    Claim("Few-shot tuning scores higher than zero-shot", against("zero_shot")),
    Claim("(IA)³ scores higher than full fine-tuning", against_full),
    Claim("(IA)³ scores higher than every other parameter-efficient method", against_methods),
)
