"""Sentences about an experiment, computed from its numbers and their intervals: they say whatever the records say."""

from analysis.summary import Arm, Comparison, Summary
from analysis.typeset import percent, power, powers, signed


def headline(summary: Summary) -> list[str]:
    """The paper's question, answered by these records: accuracy first, then what it costs."""
    tuned = best(summary, "peft")
    rivals = [arm for family in ("icl", "full", "zero_shot") if (arm := best(summary, family)) is not None]
    if tuned is None:
        top = max((arm for arm in summary.arms if arm.accuracy is not None), key=lambda arm: arm.accuracy or 0)
        return [f"{summary.title(top)} has the highest average accuracy, {accuracy(top)}."]
    sentences = [leader(summary, tuned)]
    sentences += [versus(summary, tuned, rival) for rival in rivals]
    icl = best(summary, "icl")
    if icl is not None:
        sentences += costs(tuned, icl)
    return sentences


def leader(summary: Summary, tuned: Arm) -> str:
    """Which method leads its family; that it was picked after the fact is part of the news."""
    others = sum(arm.family == "peft" for arm in summary.arms)
    if others == 1:
        return f"{summary.title(tuned)} reaches {accuracy(tuned)}."
    return f"Of {others} parameter-efficient methods, {summary.title(tuned)} does best: {accuracy(tuned)}."


def best(summary: Summary, family: str) -> Arm | None:
    """The arm of highest accuracy of a family, among those that ran on every data set."""
    arms = [arm for arm in summary.arms if arm.family == family and arm.covers_all and arm.accuracy is not None]
    return max(arms, key=lambda arm: arm.accuracy or 0, default=None)


def versus(summary: Summary, tuned: Arm, rival: Arm) -> str:
    """How a rival stands against the best tuned method, by the paired comparison."""
    pair = summary.compare(rival, tuned)
    return f"{summary.title(rival)} reaches {accuracy(rival)}" + ("." if pair is None else f", {verdict(pair)}.")


def verdict(pair: Comparison) -> str:
    """The first arm against the second, and whether the data can tell them apart."""
    side = "above" if pair.difference > 0 else "below"
    points = f"{percent(abs(pair.difference))} points {side} it in paired runs"
    bounds = f"95 % interval {signed(pair.low)} to {signed(pair.high)}"
    known = "more than chance explains" if pair.told_apart else "which these runs cannot tell from chance"
    return f"{points} ({bounds}), {known}"


def costs(tuned: Arm, icl: Arm) -> list[str]:
    """What a prediction and the adaptation cost, counted, and after how many predictions tuning has paid for itself."""
    mine, theirs = tuned.typical("flops.predict.measured"), icl.typical("flops.predict.measured")
    adapt = tuned.typical("flops.adapt.measured")
    if not mine or not theirs or adapt is None:
        return []
    sentences = [
        f"A prediction takes {powers(power(mine))} FLOPs with {tuned.name} on {tuned.model} "
        f"and {powers(power(theirs))} with {icl.name} on {icl.model}, {ratio(mine, theirs)}."
    ]
    if theirs > mine:
        sentences.append(
            f"Adapting takes {powers(power(adapt))} FLOPs once, which is paid back after "
            f"{adapt / (theirs - mine):,.0f} predictions."
        )
    return sentences


def ratio(mine: float, theirs: float) -> str:
    factor = max(mine, theirs) / min(mine, theirs)
    return f"{factor:.1f} times {'as many' if theirs >= mine else 'fewer'}"


def accuracy(arm: Arm) -> str:
    low, high = arm.interval or (None, None)
    return f"{percent(arm.accuracy)} % ({percent(low)} to {percent(high)})"
