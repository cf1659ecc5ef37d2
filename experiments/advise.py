"""What should I use? The cheapest method whose score cannot be told from the best, within limits of your own.

    python -m experiments.advise outputs/<experiment> predictions=100000
    python -m experiments.advise outputs/<experiment> predictions=1e6 memory=8GB storage=1MB training_flops=1e15

The folder holds finished runs, or an archive of them. Settings:

    predictions=      how many will be made, once adapted (a whole number; 1e6 is one)
    memory=           bytes a machine has: 8GB, 512MB, 4GiB or 1e9; what adapting or predicting holds at its peak
    storage=          bytes there are for a task beside the model, in the same units
    training_flops=   FLOPs there are for adapting, its share of pre-training (DAPT, TAPT) included
    latency=          seconds a prediction may take (0.2, 200ms), where the records have a latency

Cheapest: the fewest FLOPs in all, adapting once and then so many predictions, as counted in the records. A
model's pre-training is part of adapting, shared out over the data sets whose runs start from it. Of the methods that
ran on every data set and fit the limits, the one of highest score is compared with each other in paired runs; one that
is significantly below it, at 5 % after Holm's adjustment over these comparisons, is no answer. Costs are those of the
report's tables: of an average data set, and the largest peak of memory in any run.
"""

import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from adaptbench.errors import InputError
from analysis.collect import ReportError, load
from analysis.summary import Summary, summarise
from analysis.typeset import (
    ABSENT,
    Best,
    Panel,
    Table,
    percent,
    power,
    powers,
    seconds,
    signed,
    size,
    to_text,
)
from analysis.verdicts import of_pretraining
from experiments.cheapest import PLAIN, RESOURCES, Advice, Candidate, Question, advise, latency, peak_memory
from experiments.commandline import check_options, one_clear_line

MOST_PREDICTIONS = 1e18
WHOLE = f"a whole number such as 100000 or 1e6, up to {MOST_PREDICTIONS:g}"
NUMBER = re.compile(r"(?P<value>(\d+(_\d+)*)?\.?\d*(e[+-]?\d+)?)\s*(?P<unit>[a-z]*)", re.ASCII | re.IGNORECASE)


# -- the question -------------------------------------------------------------------------------------------------


def question(arguments: Sequence[str]) -> Question:
    """Reads the command line.

    Raises:
        InputError: names the argument.
    """
    check_options(list(arguments))
    settings = {name: value for name, sign, value in (a.partition("=") for a in arguments) if sign and "/" not in name}
    folders = [argument for argument in arguments if argument.partition("=")[0] not in settings]
    if len(folders) != 1:
        raise InputError(f"expected one folder, outputs/<experiment>, found {' '.join(folders) or 'none'} (see --help)")
    for name, value in settings.items():
        if name not in ("predictions", *RESOURCES):
            known = ", ".join(f"{known}=" for known in ("predictions", *RESOURCES))
            raise InputError(f"{name}={value}: unknown, expected one of {known}")
    if "predictions" not in settings:
        raise InputError("predictions=: expected how many will be made, such as predictions=100000")
    predictions = amount("predictions", settings["predictions"], PLAIN, WHOLE)
    if not predictions.is_integer() or predictions > MOST_PREDICTIONS:
        raise InputError(f"predictions={settings['predictions']}: expected {WHOLE}")
    given = {name: value for name, value in settings.items() if name in RESOURCES}
    limits = {name: amount(name, text, RESOURCES[name].units, RESOURCES[name].example) for name, text in given.items()}
    return Question(Path(folders[0]), int(predictions), limits, " ".join(f"{n}={text}" for n, text in given.items()))


def amount(name: str, text: str, units: Mapping[str, float], example: str) -> float:
    """A number that is not negative, with its unit."""
    found = NUMBER.fullmatch(text.strip())
    try:
        value = float(found["value"]) * units[found["unit"].lower()] if found else math.nan
    except (KeyError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{name}={text}: expected {example}")
    return value


# -- in words -----------------------------------------------------------------------------------------------------


def told(summary: Summary, advice: Advice) -> str:
    """The answer, why it is the answer, its bill, what weakens it, and all methods in a table."""
    asked, answers = advice.question, advice.answers
    names = " or ".join(summary.title(candidate.arm) for candidate in answers)
    within = f" within {asked.limits_as_given}" if asked.limits else ""
    lines = [f"For {powers(many(asked.predictions))} predictions{within}: {names}.", ""]
    if len(answers) > 1:
        tied = answers[0].arm.score == answers[1].arm.score
        highest = "the first two score the same" if tied else f"{summary.title(answers[0].arm)} has the highest score"
        lines.append(f"These are equally cheap; {highest}.")
    lines += [powers(reason(summary, advice)), powers(bill(asked, answers[0])), *doubts(summary, advice), ""]
    return "\n".join([*lines, to_text(table(summary, advice))])


def many(predictions: int) -> str:
    return f"{predictions:,}" if predictions < 1e9 else power(predictions)


def reason(summary: Summary, advice: Advice) -> str:
    """How the answer's score stands to the best."""
    answer, best, others = advice.answers[0], advice.best, len(advice.against_best)
    low, high = map(percent, answer.arm.interval or (None, None))
    reached = f"{summary.title(answer.arm)} reaches {percent(answer.arm.score)} % {summary.measure} ({low} to {high})"
    fit = " that fit" if advice.question.limits else ""
    if answer is best:
        return f"{reached}, the highest of {others + 1} methods{fit}." if others else f"{reached}; no other can be had."
    pair = advice.against_best[answer.arm.key]
    assert pair is not None  # or it would not be an answer
    return (
        f"{reached}, which cannot be told from the highest of {others + 1} methods{fit}, {percent(best.arm.score)} % "
        f"with {summary.title(best.arm)}: {signed(pair.difference)} points in paired runs (95 % interval "
        f"{signed(pair.low)} to {signed(pair.high)}; p = {pair.p_holm:.2f} after Holm's adjustment). "
        f"That one takes {power(best.total)} FLOPs in all."
    )


def bill(asked: Question, answer: Candidate) -> str:
    held = [("peak memory", size(peak_memory(answer.arm))), ("storage", size(answer.arm.typical("storage.bytes")))]
    if (slowest := latency(answer.arm)) is not None:
        held.append(("latency", seconds(slowest)))
    once = f"{power(answer.once)} FLOPs to adapt{of_pretraining(answer.arm)}"
    return (
        f"The bill: {once} and {power(answer.each)} per prediction, "
        f"{power(answer.total)} in all for {many(asked.predictions)}; {', '.join(f'{n} {text}' for n, text in held)}."
    )


def doubts(summary: Summary, advice: Advice) -> list[str]:
    """What weakens the comparison, and who is not in it."""
    fitting = [*advice.answers, *advice.dearer, *advice.worse]
    seeds = {c: [len(cell.seeds) for cell in c.arm.by_dataset.values() if cell.shots > 0] for c in fitting}
    drawn = [set(counts) for counts in seeds.values() if counts]
    said = []
    if drawn and set.union(*drawn) == {1}:
        said.append("Only one seed was run: other draws of the examples may rank the methods differently.")
    elif lone := [summary.title(c.arm) for c, counts in seeds.items() if 1 in counts]:
        said.append(f"On some data set with one seed only: {', '.join(lone)}.")
    candidates = {c.arm.key for c in (*fitting, *advice.unfit)}
    if absent := [arm for arm in summary.arms if arm.key not in candidates]:
        names = ", ".join(summary.title(arm) for arm in absent)
        said.append(f"Left out, because some data set or its FLOPs are missing: {names}.")
    return said


def table(summary: Summary, advice: Advice) -> Table:
    """All methods: the answers, those as good but dearer, those of lower score, those that exceed a limit."""
    rows = []
    groups = (("use this", advice.answers), ("dearer", advice.dearer), ("lower score", advice.worse))
    for verdict, candidates in groups:
        for candidate in candidates:
            pair = advice.against_best.get(candidate.arm.key)
            alone = candidate is not advice.best and pair is None
            rows.append(row(advice, candidate, "shares no run with the best" if alone else verdict))
    for candidate in advice.unfit:
        over = candidate.over(advice.question.limits)
        verdict = ", ".join(f"{name} {'unknown' if need is None else 'exceeded'}" for name, need in over.items())
        rows.append(row(advice, candidate, verdict))
    columns = [("", "Method"), ("", "Model"), ("", f"{summary.title_measure}, %"), ("Against the best, points", "mean")]
    columns += [("Against the best, points", "95 % interval"), ("Against the best, points", "p, Holm")]
    columns += [("FLOPs", name) for name in ("to adapt", "per prediction", "in all")]
    columns += [("", "Peak memory"), ("", "Storage"), ("", "Verdict")]
    title = f"Every method, for {many(advice.question.predictions)} predictions"
    return Table("advice", title, columns, [Panel("", rows)], pd.DataFrame(), 2)


def row(advice: Advice, candidate: Candidate, verdict: str) -> list[str]:
    arm, pair = candidate.arm, advice.against_best.get(candidate.arm.key)
    differs = [ABSENT] * 3
    if pair is not None:
        differs = [signed(pair.difference), f"[{signed(pair.low)}, {signed(pair.high)}]", p_text(pair.p_holm)]
    elif candidate is advice.best:
        differs = ["best", "", ""]
    spent = [power(candidate.once), power(candidate.each)]
    total = Best(power(candidate.total)) if candidate in advice.answers else power(candidate.total)
    held = [size(peak_memory(arm)), size(arm.typical("storage.bytes"))]
    return [arm.name, arm.model, percent(arm.score), *differs, *spent, total, *held, verdict]


def p_text(p: float) -> str:
    return f"{p:.3f}" if p >= 0.0005 else "< 0.001"


def main() -> None:
    with one_clear_line():
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(__doc__)
            return
        asked = question(sys.argv[1:])
        try:
            experiment = load(asked.folder)
        except ReportError as error:
            raise InputError(str(error)) from None
        if experiment.records.empty:
            raise InputError(f"{asked.folder}: no run answered rows with labels, so nothing is scored")
        summary = summarise(experiment)
        advice = advise(summary, asked)
    print(told(summary, advice))


if __name__ == "__main__":
    main()
