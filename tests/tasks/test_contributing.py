"""The task type written out in CONTRIBUTING.md works as it stands there."""

import ast
import inspect
import json
import re
import sys

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr, spearmanr

from adaptbench.data.templates import UNLABELLED, Prompt
from adaptbench.tasks import TASKS, TaskType
from adaptbench.tasks.choices import ChoiceScores
from analysis import report
from experiments import run
from tests.walks import added, section, write_files

HEADING = "Add a task type in one file"
WORDS = ("bad", "good", "large", "red", "it is")


@pytest.fixture
def rating(tmp_path):
    path, _ = write_files(HEADING, tmp_path)
    with added(path, TASKS):
        yield TASKS["rating"]
    assert "rating" not in TASKS


@pytest.fixture
def reviews(tmp_path, monkeypatch) -> int:
    """The files that the data set's YAML names, in the working directory; how many are evaluated."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reviews").mkdir()
    for name, count in (("train", 16), ("test", 12)):
        rows = [{"text": f"{WORDS[i % 5]} cat {i}", "stars": 1 + i % 3} for i in range(count)]
        (tmp_path / "reviews" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return 12


def test_the_worked_example_answers_with_the_expected_grade(rating):
    prompt = Prompt("1", "plain", "x", ("bad", "good", "great"), 2)
    answer = ChoiceScores(prompt, tuple(np.log([0.1, 0.3, 0.2]) - 800), (1, 1, 2))
    assert rating().prediction(answer, "token") == pytest.approx((0.3 + 2 * 0.2) / 0.6)
    assert rating().reference(prompt) == 2.0
    assert rating().reference(Prompt("1", "plain", "x", prompt.choices, UNLABELLED)) is None


def test_cells_of_the_worked_example_run(rating, reviews, model_folders, tmp_path, monkeypatch):
    common = ["dataset=stars", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "recipe=ten_steps", "progress=false"]
    common += [f"model.path={model_folders['t5']}", f"output={tmp_path / 'out'}", "seeds=[0,1]"]
    methods = ("ia3", "icl", "zero_shot")
    for method in methods:
        monkeypatch.setattr(sys, "argv", ["run", *common, f"method={method}"])
        run.main()

    records = [json.loads(path.read_text()) for path in sorted((tmp_path / "out" / "records").glob("*.json"))]
    assert len(records) == 2 * len(methods)
    for record in records:
        answers = pd.read_parquet(tmp_path / "out" / "predictions" / f"{record['run_id']}.parquet")
        assert len(answers) == reviews
        assert answers.prediction.between(0, 2).all()
        assert answers.reference.tolist() == [i % 3 for i in range(reviews)]
        assert (record["task"], record["metric"], record["chance"]) == ("rating", "spearman", None)
        expected = spearmanr(answers.prediction, answers.reference).statistic
        assert record["score"] == record["scores.spearman"] == pytest.approx(expected)
        assert record["scores.pearson"] == pytest.approx(pearsonr(answers.prediction, answers.reference).statistic)
        assert record["flops.predict.measured"] > 0
        assert (record["flops.adapt.measured"] > 0) == (record["method"] == "ia3")
    assert report.main([str(tmp_path / "out")]) == 0


def test_what_a_task_type_has_to_implement_is_listed():
    """Everything that TaskType leaves open, and nothing else."""
    (definition,) = ast.parse(inspect.getsource(TaskType)).body
    open_ones = [
        node.name
        for node in ast.iter_child_nodes(definition)
        if isinstance(node, ast.FunctionDef) and isinstance(node.body[-1], ast.Raise)
    ]
    listed = re.search(r"nothing to start from implements (.*?)\.\s", section(HEADING), re.DOTALL)
    assert listed is not None
    assert set(re.findall(r"`(\w+)`", listed.group(1))) == set(open_ones)
    assert len(open_ones) > 10
