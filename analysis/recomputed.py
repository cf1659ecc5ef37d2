"""The paper's printed costs beside its own arithmetic and what is counted, from the bills of `experiments.table1`.

python -m analysis.recomputed outputs/table1
"""

import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures
from analysis.appearance import method_style
from analysis.charts import Tally, break_even
from analysis.collect import Arguments, ReportError, read_json
from analysis.published import published
from analysis.typeset import Panel, Table, power, significant, size, to_text, write

NAMES = {
    "t_few.inference": "T-Few, T0-11B: FLOPs per example",
    "zero_shot.inference": "Zero-shot, T0-11B: FLOPs per example",
    "t_few.training": "T-Few, T0-11B: training FLOPs",
    "t_few.disk": "T-Few, T0-11B: disk",
    "icl.disk": "ICL, 41 examples: disk",
    "t5_lm_xxl.inference": "Ensemble ICL, T5+LM: FLOPs per example",
    "gpt3_6_7b.inference": "ICL, GPT-3 6.7B: FLOPs per example",
    "gpt3_13b.inference": "ICL, GPT-3 13B: FLOPs per example",
    "gpt3_175b.inference": "ICL, GPT-3 175B: FLOPs per example",
    "kv_cache": "Key/value cache of 32 examples, GPT-3 175B",
    "saved_by_caching": "Saved by caching, GPT-3 175B",
    "break_even": "Predictions that pay for training T-Few",
}
CELLS = {  # (method, model, metric) of the transcribed Table 1
    "t_few.inference": ("t_few", "T0-11B", "flops_inference"),
    "zero_shot.inference": ("zero_shot", "T0-11B", "flops_inference"),
    "t_few.training": ("t_few", "T0-11B", "flops_training"),
    "t_few.disk": ("t_few", "T0-11B", "disk"),
    "icl.disk": ("icl", "GPT-3-175B", "disk"),
    "t5_lm_xxl.inference": ("icl_ensemble", "T5+LM-11B", "flops_inference"),
    "gpt3_6_7b.inference": ("icl", "GPT-3-6.7B", "flops_inference"),
    "gpt3_13b.inference": ("icl", "GPT-3-13B", "flops_inference"),
    "gpt3_175b.inference": ("icl", "GPT-3-175B", "flops_inference"),
}
NOTES = (
    "Formula: the text's arithmetic with the sizes in the models' names (section 4.2; 41 examples of 98 tokens, 103 "
    "for an input with its choices). Nearest reading: of the readings the text leaves open (N as named or without "
    "embeddings, the query's tokens counted or not) the one nearest to the printed number; no single one is near all.",
    "GPT-3's printed cells round to 2N x 41 x 98, the query left out: with the formula of the text the 6.7B and 13B "
    "cells would have been printed as 5.5e13 and 1.1e14.",
    "Counted: PyTorch's count of the real step on the meta device, two FLOPs per multiply-add; the output head and all "
    "attention are in it, embedding look-ups are not, and a causal mask does not halve attention.",
)


@lru_cache(maxsize=1)
def printed() -> dict[str, float]:
    """Every printed cost, of Table 1 and of the text."""
    table = published().query("table == 'table1'").set_index(["method", "model", "metric"])["value"]
    text = pd.read_csv(Path(__file__).parent / "published" / "tfew_text.csv").set_index("key")["value"]
    return {key: float(table[cell]) for key, cell in CELLS.items()} | {k: float(v) for k, v in text.items()}


def build(folder: Path) -> str:
    """Write the table and the chart of a folder's bills.json; returns the table as text."""
    bills = read_json(folder / "bills.json")
    table = costs(bills["rows"])
    write(table, folder / "tables")
    tallies = []
    for line in bills["lines"]:
        label = f"{method_style(line['method']).label}, {line['model']}"
        tallies.append(Tally(label, line["method"], line["once"], line["each"]))
    figures.write(break_even([("Counted, at the paper's scale", tallies)]), "break_even", folder / "figures")
    return to_text(table)


def costs(rows: list[dict[str, Any]]) -> Table:
    """A row for each printed number, an explanation of every difference under the table."""
    cells, numbers, whys = [], [], list(dict.fromkeys(row["why"] for row in rows))
    for row in rows:
        value = printed()[row["key"]]
        row = row | nearest(value, row["readings"])
        off = {name: row[name] / value - 1 for name in ("formula", "reading", "counted")}
        texts = [shown(row["key"], number) for number in (value, row["formula"], row["reading"], row["counted"])]
        cells.append(
            [
                NAMES[row["key"]],
                row["reading_is"],
                *(part for text, name in zip(texts, (None, *off), strict=True) for part in _with(text, name, off)),
                f"[{whys.index(row['why']) + 1}]",
            ]
        )
        numbers.append({"quantity": row["key"], "printed": value}
                       | {name: row[name] for name in off} | {f"{name}_off_percent": 100 * v for name, v in off.items()}
                       | {"reading_is": row["reading_is"], "why": row["why"]})  # fmt: skip
    columns = [("", "Quantity"), ("", "Nearest reading"), ("", "Printed")]
    columns += [(g, n) for g in ("Formula of the text", "Nearest reading", "Counted") for n in ("value", "off")]
    columns += [("", "Why")]
    notes = [*NOTES, *(f"[{number}] {why}" for number, why in enumerate(whys, 1))]
    title = "Table 1 of arXiv 2205.05638: its costs recomputed, and counted"
    return Table("table1_costs", title, columns, [Panel("", cells)], pd.DataFrame(numbers), 2, notes)


def nearest(value: float, readings: dict[str, float]) -> dict[str, Any]:
    """The reading at the smallest relative distance from a printed value, and which it is."""
    name = min(readings, key=lambda reading: abs(readings[reading] / value - 1))
    return {"reading": readings[name], "reading_is": name}


def shown(key: str, value: float) -> str:
    if key.endswith(".disk"):
        return size(value)
    if key == "kv_cache":
        return f"{significant(value)} GB"
    if key == "saved_by_caching":
        return f"{significant(value)}x"
    return f"{value:.1f}".removesuffix(".0") if key == "break_even" else power(value, 2)


def _with(text: str, name: str | None, off: dict[str, float]) -> list[str]:
    return [text] if name is None else [text, f"{100 * off[name]:+.1f} %".replace("-", "−")]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Arguments(prog="python -m analysis.recomputed", description=__doc__)
    parser.add_argument("folder", type=Path, help="with the bills.json of experiments.table1 in it")
    try:
        folder: Path = parser.parse_args(arguments).folder
        print(build(folder))
    except (ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(folder / "tables" / "table1_costs.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
