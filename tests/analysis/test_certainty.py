"""The report says how far its intervals and p-values can be trusted."""

from collections import defaultdict

import pytest

from analysis import report, tables
from analysis.certainty import certainty
from analysis.collect import load
from analysis.summary import summarise
from analysis.typeset import to_latex
from tests.analysis.synthetic import write_experiment


@pytest.mark.parametrize(
    ("seeds", "medians", "paired"),
    [
        ((0,), "one seed answer for the items alone", "one seed answer for the items alone"),
        ((0, 1), "two seeds are too short", "two seeds are conservative"),
        ((0, 1, 2), "three seeds or more are conservative", "hold their level"),
        ((0, 1, 2, 3, 4), "three seeds or more are conservative", "hold their level"),
    ],
)
def test_certainty_follows_the_number_of_seeds(tmp_path, seeds, medians, paired):
    folder = write_experiment(tmp_path, ("ia3", "icl", "zero_shot"), ("micro_wsc",), seeds, items=16)
    about_medians, about_pairs = certainty(summarise(load(folder)))
    assert medians in about_medians
    assert paired in about_pairs


def test_zero_shot_alone_has_nothing_to_say_about_seeds(tmp_path):
    assert certainty(summarise(load(write_experiment(tmp_path, ("zero_shot",), ("micro_wsc",))))) == []


def test_tables_figures_and_page_say_conservative(tmp_path):
    folder = write_experiment(tmp_path, ("ia3", "icl"), ("micro_wsc",), (0, 1, 2), items=16)
    summary = summarise(load(folder))
    page = report.render(summary, tables.build_all(summary), defaultdict(str))
    assert all(sentence in page for sentence in certainty(summary))
    assert any("conservative" in note for note in tables.table1(summary).notes)
    assert any("conservative" in note for note in tables.comparisons(summary).notes)
    assert "conservative" in report.READING["figure2"]


def test_an_interval_without_ends_is_shown_as_one(tmp_path):
    """One seed and one item: nothing is known."""
    folder = write_experiment(tmp_path, ("ia3", "icl"), ("micro_wsc",), (0,), items=1)
    table = tables.comparisons(summarise(load(folder)))
    assert table.panels[0].rows[0][3:6] == ["[−∞, +∞]", "1.0000", "1.0000"]
    assert r"[$-$$\infty$, +$\infty$]" in to_latex(table)
