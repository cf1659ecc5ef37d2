"""Sentences about an experiment, computed from its numbers and their intervals: they say whatever the records say."""

from analysis.pretraining import ADAPTING
from analysis.summary import Arm, Comparison, Summary
from analysis.typeset import percent, power, powers, signed


def headline(summary: Summary) -> list[str]:
    """The paper's question, answered by these records: scores first, then what it costs."""
    tuned = best(summary, "peft")
    rivals = [arm for family in ("icl", "full", "zero_shot") if (arm := best(summary, family)) is not None]
    if tuned is None:
        top = max((arm for arm in summary.arms if arm.score is not None), key=lambda arm: arm.score or 0)
        return [f"{summary.title(top)} has the highest average {summary.measure}, {score_with_interval(top)}."]
    sentences = [best_peft(summary, tuned)]
    sentences += [against_rival(summary, tuned, rival) for rival in rivals]
    icl = best(summary, "icl")
    if icl is not None:
        sentences += costs(tuned, icl)
    return sentences


def claims(summary: Summary) -> dict[str, list[str]]:
    """What each figure shows, in sentences: the paper's claims, held against these records."""
    return {"figure3": tuning_against_prompting(summary), "figure2": peft_comparisons(summary)}


def tuning_against_prompting(summary: Summary) -> list[str]:
    """Tuning against in-context learning (Table 1, Figure 3). T-Few stands for tuning where it ran, as in the paper."""
    named = [arm for arm in summary.arms if arm.method == "t_few" and arm.covers_all]
    tuned = named[0] if named else best(summary, "peft")
    prompted = [arm for arm in summary.arms if arm.family in ("icl", "zero_shot") and arm.by_dataset]
    if tuned is None or not prompted:
        return []
    return [against_reference(summary, tuned, prompted), *scaling(summary)]


def scaling(summary: Summary) -> list[str]:
    """What in-context learning gains from the size of the model, method by method."""
    sentences = []
    arms = [arm for arm in summary.arms if arm.family == "icl" and arm.covers_all and not arm.variant]
    for method in dict.fromkeys(arm.method for arm in arms):
        sizes = sorted((arm for arm in arms if arm.method == method), key=lambda arm: arm.typical("params.total") or 0)
        pair = summary.compare(sizes[-1], sizes[0]) if len(sizes) > 1 else None
        if pair is not None:
            steps = ", ".join(f"{percent(arm.score)} % on {arm.model}" for arm in sizes)
            sentences.append(
                f"By size, {sizes[0].name} reaches {steps}: from smallest to largest {signed(pair.difference)} points "
                f"in paired runs ({signed(pair.low)} to {signed(pair.high)}), {significance(pair)}."
            )
    return sentences


def peft_comparisons(summary: Summary) -> list[str]:
    """Parameter-efficient methods against full fine-tuning, and T-Few's adapter against the others (Figure 2)."""
    tuned = [arm for arm in summary.arms if arm.family == "peft" and arm.by_dataset and not arm.variant]
    references = [arm for arm in summary.arms if arm.family == "full" and arm.covers_all and not arm.variant]
    references += [arm for arm in tuned if arm.method == "ia3" and arm.covers_all]
    told = [(reference, [arm for arm in tuned if arm is not reference]) for reference in references]
    return [against_reference(summary, reference, others) for reference, others in told if others]


def against_reference(summary: Summary, reference: Arm, others: list[Arm]) -> str:
    """Which arms lie above a reference, which below, and which do not differ significantly from it, in paired runs."""
    sides: dict[str, list[str]] = {"Above it": [], "Below it": [], "No significant difference": []}
    for arm in sorted(others, key=lambda arm: -(arm.score or 0)):
        pair = summary.compare(arm, reference)
        if pair is None:
            continue
        bounds = f"{summary.title(arm)} ({signed(pair.difference)}; {signed(pair.low)} to {signed(pair.high)})"
        side = ("Above it" if pair.difference > 0 else "Below it") if pair.significant else "No significant difference"
        sides[side].append(bounds)
    told = " ".join(f"{side}: {', '.join(arms)}." for side, arms in sides.items() if arms)
    reached = score_with_interval(reference)
    return f"Against {summary.title(reference)}, {reached}, in points of paired runs. {told}"


def best_peft(summary: Summary, tuned: Arm) -> str:
    """Which method leads its family; that it was picked after the fact is part of the news."""
    others = sum(arm.family == "peft" for arm in summary.arms)
    if others == 1:
        return f"{summary.title(tuned)} reaches {score_with_interval(tuned)}."
    return f"Of {others} parameter-efficient methods, {summary.title(tuned)} does best: {score_with_interval(tuned)}."


def best(summary: Summary, family: str) -> Arm | None:
    """The arm of highest score of a family, the cheapest of equals, among those that ran on every data set."""
    arms = [arm for arm in summary.arms if arm.family == family and arm.covers_all and arm.score is not None]
    return max(arms, key=lambda a: (a.score or 0, -(a.typical("flops.predict.measured") or 0)), default=None)


def against_rival(summary: Summary, tuned: Arm, rival: Arm) -> str:
    """How a rival stands against the best tuned method, by the paired comparison."""
    pair = summary.compare(rival, tuned)
    return f"{summary.title(rival)} reaches {score_with_interval(rival)}" + (
        "." if pair is None else f", {difference(pair)}."
    )


def difference(pair: Comparison) -> str:
    """The first arm against the second, and whether the data can tell them apart."""
    side = "above" if pair.difference > 0 else "below"
    points = f"{percent(abs(pair.difference))} points {side} it in paired runs"
    bounds = f"95 % interval {signed(pair.low)} to {signed(pair.high)}"
    return f"{points} ({bounds}), {significance(pair)}"


def significance(pair: Comparison) -> str:
    return "more than chance explains" if pair.significant else "which these runs cannot tell from chance"


def costs(tuned: Arm, icl: Arm) -> list[str]:
    """What a prediction and the adaptation cost, counted, and after how many predictions tuning has paid for itself."""
    mine, theirs = tuned.typical("flops.predict.measured"), icl.typical("flops.predict.measured")
    adapt = tuned.typical(ADAPTING)
    if not mine or not theirs or adapt is None:
        return []
    sentences = [
        f"A prediction takes {powers(power(mine))} FLOPs with {tuned.name} on {tuned.model} "
        f"and {powers(power(theirs))} with {icl.name} on {icl.model}, {ratio(mine, theirs)}."
    ]
    if theirs > mine:
        sentences.append(
            f"Adapting takes {powers(power(adapt))} FLOPs once{of_pretraining(tuned)}, which is paid back after "
            f"{adapt / (theirs - mine):,.0f} predictions."
        )
    return sentences


def of_pretraining(arm: Arm) -> str:
    """How much of the FLOPs of adapting is its share of pre-training, where it has one."""
    share = arm.pretraining_share
    return f" ({powers(power(share))} of them as its share of pre-training)" if share else ""


def ratio(mine: float, theirs: float) -> str:
    factor = max(mine, theirs) / min(mine, theirs)
    return f"{factor:.1f} times {'as many' if theirs >= mine else 'fewer'}"


def score_with_interval(arm: Arm) -> str:
    low, high = arm.interval or (None, None)
    return f"{percent(arm.score)} % ({percent(low)} to {percent(high)})"
