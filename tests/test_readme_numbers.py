"""Every row of README's result tables stands in the committed results, digit for digit."""

import re
from pathlib import Path

import pandas as pd
import pytest

from analysis.typeset import percent, power, size

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FOUND = README[README.index("## What it finds") : README.index("## Ask your own question")]
SECTIONS = dict(zip(("real", "embedded_full"), FOUND.split("**In the embedded world**"), strict=True))


def rows(text: str) -> list[list[str]]:
    """The cells of the table's rows, without its header."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def numbers(row: pd.Series) -> list[str]:
    """A row of table1.csv as README writes it."""
    score, low, high = (percent(row[name]) for name in ("score", "ci_low", "ci_high"))
    stored = size(row["disk_bytes"]) if row["disk_bytes"] else "0"
    flops = (row[f"flops_{name}_measured"] for name in ("inference", "training"))
    return [f"{score} ({low} to {high})", *(power(value) for value in flops), stored]


@pytest.mark.parametrize("experiment", SECTIONS)
def test_rows_are_those_of_the_committed_results(experiment):
    table = pd.read_csv(ROOT / "docs" / "results" / experiment / "tables" / "table1.csv")
    measured = table[table["source"] == "measured here"]
    committed = [numbers(row) for _, row in measured.iterrows()]
    shown = [[cell for cell in row if re.match(r"[0-9]", cell)] for row in rows(SECTIONS[experiment])]
    assert len(shown) >= 9
    for row in shown:
        assert row in committed
    assert percent(measured["chance"].iloc[0]) in SECTIONS[experiment]


@pytest.mark.parametrize("experiment", SECTIONS)
def test_differences_are_those_of_the_committed_report(experiment):
    """ "9.9 points (7.5 to 12.3)" and "+0.1; −1.8 to +2.0" are paired comparisons of the committed table."""
    pairs = pd.read_csv(ROOT / "docs" / "results" / experiment / "tables" / "comparisons.csv")
    bounds = pairs[["difference", "ci_low", "ci_high"]].to_numpy()
    known = {tuple(round(100 * abs(value), 1) for value in row) for row in bounds}
    told = re.findall(r"([0-9.]+)(?: points)? \(([0-9.]+) to ([0-9.]+)\)(?! \|)", SECTIONS[experiment])
    told = [triple for triple in told if f"| {triple[0]} ({triple[1]}" not in SECTIONS[experiment]]
    told += re.findall(r"\+([0-9.]+); −([0-9.]+) to \+([0-9.]+)", SECTIONS[experiment])
    assert told
    for triple in told:
        found = tuple(map(float, triple))
        assert found in known or (found[0], found[2], found[1]) in known
