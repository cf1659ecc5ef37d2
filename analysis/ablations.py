"""The paper's ablations: what each loss and pre-training contribute (tables 3, 8 and 10), with a verdict each.

An ablation's settings are methods of their own in the records (conf/method/full_ft_lm.yaml, ...), so that they share
seeds, shots and items with everything else and are compared in pairs. What stands only in an ablation stays out of the
main tables.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from analysis.published import PAPER, PRINTED, printed_name, published
from analysis.summary import Arm, Comparison, Summary, compare_all
from analysis.typeset import ABSENT, Panel, Table, percent, signed


@dataclass(frozen=True)
class Ablation:
    """`settings`: label -> the method of our records and the row of the paper's table; the first is the reference."""

    name: str
    title: str
    question: str
    settings: dict[str, tuple[str, dict[str, str]]]
    published_model: str


def losses(*names: str) -> dict[str, str]:
    return {"method": "full_ft", "note": "+".join(names)}


ABLATIONS = (
    Ablation(
        "table3",
        "Table 3. What the losses contribute, full fine-tuning",
        "the unlikelihood and length-normalised losses",
        {
            "L_LM": ("full_ft_lm", losses("LM")),
            "L_LM + L_UL": ("full_ft_lm_ul", losses("LM", "UL")),
            "L_LM + L_LN": ("full_ft_lm_ln", losses("LM", "LN")),
            "L_LM + L_UL + L_LN": ("full_ft", losses("LM", "UL", "LN")),
        },
        "T0-3B",
    ),
    Ablation(
        "table8",
        "Table 8. Pre-training (IA)³",
        "pre-training (IA)³",
        {
            "without pre-training": ("ia3", {"method": "ia3"}),
            "pre-trained": ("t_few", {"method": "ia3_pretrained"}),
        },
        "T0-3B",
    ),
    Ablation(
        "table10",
        "Table 10. T-Few, ingredient by ingredient",
        "each ingredient of T-Few",
        {
            "T-Few": ("t_few", {"method": "t_few"}),
            "− pre-training": ("ia3", {"method": "t_few_minus_pt"}),
            "− L_UL": ("t_few_lm_ln", {}),
            "− L_LN": ("t_few_lm_ul", {}),
            "− L_UL − L_LN": ("t_few_lm", {"method": "t_few_minus_ul_ln"}),
            "− pre-training − L_UL − L_LN": ("ia3_lm", {"method": "t_few_minus_pt_ul_ln"}),
        },
        "T0-11B",
    ),
)


@dataclass(frozen=True)
class Result:
    """An ablation's arms that ran, and each one against the reference."""

    ablation: Ablation
    arms: dict[str, Arm]  # label -> arm
    against_reference: dict[str, Comparison] = field(default_factory=dict)


def results(summary: Summary) -> list[Result]:
    """The ablations of which the reference and at least one other setting ran."""
    found = []
    by_method = {arm.method: arm for arm in (*summary.arms, *summary.ablation_arms) if arm.by_dataset}
    for ablation in ABLATIONS:
        arms = {label: by_method[m] for label, (m, _) in ablation.settings.items() if m in by_method}
        reference, *others = ablation.settings
        if reference not in arms or len(arms) < 2:
            continue
        pairs = {
            label: compare_all([arms[reference], arms[label]], summary.datasets) for label in others if label in arms
        }
        directed = {label: towards(arms[label], pair[0]) for label, pair in pairs.items() if pair}
        found.append(Result(ablation, arms, directed))
    return found


def towards(arm: Arm, pair: Comparison) -> Comparison:
    """The comparison as arm - other."""
    if pair.first.key == arm.key:
        return pair
    return Comparison(
        pair.second, pair.first, pair.datasets, pair.runs, -pair.difference, -pair.high, -pair.low, pair.p, pair.p_holm
    )


def table(result: Result, summary: Summary) -> Table:
    """Scores per dataset under each setting, the difference to the first in paired runs, and the paper's numbers."""
    ablation = result.ablation
    rows, numbers = [], []
    for label, arm in result.arms.items():
        cells = [
            percent(arm.by_dataset[name].median) if name in arm.by_dataset else ABSENT for name in summary.datasets
        ]
        pair = result.against_reference.get(label)
        change = f"{signed(pair.difference)} ({signed(pair.low)} to {signed(pair.high)})" if pair else ABSENT
        rows.append([label, *cells, percent(arm.score), change])
        numbers.append(
            {"source": "measured here", "setting": label, "method": arm.method, "score": arm.score}
            | {name: arm.by_dataset[name].median for name in arm.by_dataset}
            | ({"difference": pair.difference, "low": pair.low, "high": pair.high, "p": pair.p} if pair else {})
        )
    theirs = []
    for label, (_, where) in ablation.settings.items():
        printed = published_row(ablation.name, where) if where else {}
        if printed:
            scores = [printed.get(printed_name(name) or name) for name in summary.datasets]
            cells = [ABSENT if score is None else f"{score:.1f}" for score in scores]
            average = float(np.mean([value for key, value in printed.items() if key != "average"]))
            theirs.append([label, *cells, f"{average:.1f}", ABSENT])
            numbers.append({"source": PAPER, "setting": label, "score": average / 100})
    columns = [("", "Setting"), *(("", name.removeprefix("micro_")) for name in summary.datasets)]
    columns += [("", "Average"), ("", f"Against “{next(iter(result.arms))}” (95 %)")]
    panels = [Panel("Measured here, median over seeds", rows)]
    panels.append(Panel(f"Published, {ablation.published_model}, {PAPER}", theirs))
    return Table(ablation.name, ablation.title, columns, panels, pd.DataFrame(numbers), 1, [verdict(result)])


def verdict(result: Result) -> str:
    """One sentence per ablation, from the paired differences and their intervals."""
    sure = {label: pair for label, pair in result.against_reference.items() if pair.low > 0 or pair.high < 0}
    reference = next(iter(result.arms))
    if not sure:
        return f"None of the settings differs from “{reference}” by more than these runs can tell from chance."
    parts = [
        f"“{label}” is {percent(abs(pair.difference))} points {'above' if pair.difference > 0 else 'below'}"
        for label, pair in sure.items()
    ]
    rest = len(result.against_reference) - len(sure)
    others = "another does" if rest == 1 else f"{rest} others do"
    tail = f"; {others} not differ significantly from it" if rest else ""
    return f"Against “{reference}”, {', '.join(parts)} in paired runs (95 % intervals without zero){tail}."


def published_row(table: str, where: dict[str, str]) -> dict[str, float]:
    """Dataset -> printed score in percent."""
    rows = published()
    rows = rows[(rows["table"] == table) & (rows["metric"] == PRINTED)]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    return dict(zip(rows["dataset"], rows["value"], strict=True))
