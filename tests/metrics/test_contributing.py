"""The metric written out in CONTRIBUTING.md works as it stands there."""

import json
import re
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from adaptbench.metrics import METRICS, Metric, get, metrics_for
from analysis import report
from experiments import run
from tests.metrics import references, test_sums
from tests.walks import added, section, write_files

HEADING = "Add a metric in one file"
PROMISES = (
    test_sums.test_the_score_is_the_aggregate_of_the_sum_over_items,
    test_sums.test_all_items_at_once_are_judged_as_each_alone,
    test_sums.test_aggregate_scores_many_draws_as_each_alone,
    test_sums.test_a_bootstrap_draw_scores_as_the_items_it_draws,
    test_sums.test_sums_of_nothing_score_zero,
    test_sums.test_scores_do_not_depend_on_the_size_of_sums,
)


@pytest.fixture
def metric(tmp_path):
    (path,) = write_files(HEADING, tmp_path)
    with added(path, METRICS):
        yield get("balanced_accuracy")
    assert "balanced_accuracy" not in METRICS


@pytest.fixture
def judge(monkeypatch) -> Callable:
    """The field's implementation, from the line for REFERENCES."""
    line = re.search(r"```python\n( +.*?)```", section(HEADING), re.DOTALL)
    assert line is not None
    (found,) = eval(f"{{{line.group(1)}}}", vars(references)).values()
    monkeypatch.setitem(references.REFERENCES, "balanced_accuracy", found)
    return found


@pytest.mark.filterwarnings("ignore::UserWarning")  # scikit-learn's, of labels or predictions that are all of one class
def test_the_worked_example_is_scikit_learns(metric: Metric, judge):
    rng = np.random.default_rng(0)
    for _ in range(200):
        classes, items = rng.integers(2, 5), rng.integers(1, 12)
        answers, labels = rng.integers(0, classes, (2, items))
        assert metric.score(answers, labels, classes) == pytest.approx(judge(answers, labels, classes))


@pytest.mark.parametrize("promise", PROMISES)
def test_the_worked_example_keeps_what_every_metric_promises(metric, judge, promise):
    promise(metric)


def test_the_worked_example_is_no_default_and_needs_classes(metric):
    assert metrics_for("label")[-1] is metric
    assert metric not in metrics_for("label", classes=0)


def test_a_cell_is_scored_by_the_worked_example(metric, judge, model_folders, tmp_path, monkeypatch):
    rows = [{"text": f"the {'cat' if i % 2 else 'dog'} sat {i}", "label": "abc"[i % 5 % 3]} for i in range(20)]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = [f"dataset.train={file}", f"dataset.evaluation={file}", "dataset.labels={a: 0, b: 1, c: 2}"]
    settings += [f"model.path={model_folders['t5']}", f"output={tmp_path / 'out'}", "recipe=ten_steps", "seeds=[0,1]"]
    settings += ["method=ia3", "dataset.shots=8", "dataset.metric=balanced_accuracy", "progress=false"]
    monkeypatch.setattr(sys, "argv", ["run", "dataset=files", *settings])
    run.main()

    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "out" / "records").glob("*.json"))]
    assert len(records) == 2
    for record in records:
        choices = pd.read_parquet(tmp_path / "out" / "predictions" / f"{record['run_id']}.parquet")
        scores = (choices.log_likelihood / choices.tokens).to_numpy().reshape(20, 3)
        expected = judge(scores.argmax(axis=1), choices.label.to_numpy()[::3], 3)
        assert record["metric"] == "balanced_accuracy"
        assert record["score"] == record["scores.balanced_accuracy"] == pytest.approx(expected)
        assert record["score"] != record["scores.accuracy"]
        assert record["chance"] == pytest.approx(1 / 3)
    assert report.main([str(tmp_path / "out")]) == 0
