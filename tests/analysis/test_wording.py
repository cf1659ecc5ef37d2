"""Templates: what each is worth, and the median over templates and draws beside the usual one."""

from collections import defaultdict

import numpy as np
import pandas as pd
import pytest

from adaptbench.data.templates import Prompt
from adaptbench.metrics import get
from adaptbench.scoring.scores import by_template
from adaptbench.tasks.choices import Choices, ChoiceScores
from analysis import report, tables
from analysis.collect import load
from analysis.summary import summarise
from analysis.wording import by_template as read
from tests.analysis.synthetic import record, write_run

SCORES = ((1.0, 0.25, 0.5), (0.5, 0.25, 0.75), (1.0, 0.0, 0.5))  # (draws, templates)
TEMPLATES = ("plain", "question", "claim")


def write_runs(folder, dataset="micro_rte", method="ia3", scores=SCORES, **changes):
    for seed, row in enumerate(scores):
        each = {name: {"score": score, "n": 4} for name, score in zip(TEMPLATES, row, strict=False)}
        found = {"template": "all", "score_by_template": each, "score": float(np.mean(row)), **changes}
        write_run(folder, record(f"{method}-{dataset}-{seed}", seed=seed, dataset=dataset, method=method, **found))


def built(folder):
    return tables.build_all(summarise(load(folder)))


def test_the_lowest_and_the_highest_template_are_named(tmp_path):
    write_runs(tmp_path)
    (row,) = built(tmp_path)["wording"].panels[0].rows
    assert row[2:] == ["micro_rte", "3", "25.0", "50.0", "100.0", "75.0", "question", "plain"]


def test_medians_over_templates_and_draws_stand_beside_those_over_draws(tmp_path):
    """All nine scores sorted: 0 25 25 50 50 50 75 100 100. Means of draws: 58.3, 50, 50."""
    write_runs(tmp_path)
    both, usual = built(tmp_path)["templates"].panels
    assert both.rows == [["(IA)³", "micro_t0", "50.0 (50.0)", "50.0"]]
    assert usual.rows == [["(IA)³", "micro_t0", "50.0 (4.2)", "50.0"]]


def test_the_average_is_over_datasets(tmp_path):
    write_runs(tmp_path)
    write_runs(tmp_path, dataset="micro_wsc", scores=((0.9, 0.8), (0.7, 0.6)))
    write_runs(tmp_path, dataset="micro_wsc", method="lora", scores=((0.2, 0.4),))
    table = built(tmp_path)["templates"]
    assert [name for _, name in table.columns] == ["Method", "Model", "micro_rte", "micro_wsc", "Average"]
    assert [row[-1] for row in table.panels[0].rows] == ["62.5", "30.0"]
    assert table.panels[0].rows[1][2] == "n/a"
    frame = table.frame.set_index(["method", "dataset"]).sort_index()
    assert frame.loc[("ia3", "micro_wsc"), ["templates", "draws", "median", "iqr"]].tolist() == pytest.approx(
        [2, 2, 0.75, 0.15]
    )


def test_a_template_that_is_not_meant_for_a_run_is_left_out(tmp_path):
    write_runs(tmp_path, scores=((0.5, 0.25, 0.75), (0.5, 0.25)))
    frame = built(tmp_path)["templates"].frame
    assert frame["median"].tolist() == [0.5]  # of five scores


def test_runs_with_one_template_per_item_have_neither_table(tmp_path):
    write_runs(tmp_path, template="random")
    assert not {"wording", "templates"} & set(built(tmp_path))


def test_what_the_runner_records_is_what_is_read():
    def scored(template, right):
        prompt = Prompt("item", template, "text", ("a", "b"), 0)
        return ChoiceScores(prompt, (0.0, -1.0) if right else (-1.0, 0.0), (1, 1))

    recorded = by_template(
        get("accuracy"), Choices(), [scored("plain", True), scored("plain", False), scored("question", True)], "token"
    )
    assert read(pd.DataFrame({"score_by_template": [recorded]})).to_dict("list") == {"plain": [0.5], "question": [1.0]}


def test_the_page_shows_both_tables(tmp_path):
    write_runs(tmp_path)
    summary = summarise(load(tmp_path))
    page = report.render(summary, tables.build_all(summary), defaultdict(str))
    assert "Accuracy by template" in page
    assert "Over templates and draws" in page
