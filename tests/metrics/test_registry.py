"""Metrics are found by name and by kind of answer, and the package is a leaf."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import adaptbench.metrics
from adaptbench.errors import InputError
from adaptbench.metrics import METRICS, Metric, get, metrics_for, register
from adaptbench.metrics.base import mean
from tests.metrics.references import REFERENCES

FILES = sorted(Path(adaptbench.metrics.__file__).parent.glob("*.py"))
LAZY = {"sacrebleu"}  # optional: imported by the functions that need it


@pytest.fixture
def registry():
    """METRICS as it was, after a test that adds to it."""
    before = dict(METRICS)
    yield METRICS
    METRICS.clear()
    METRICS.update(before)


def test_each_kind_of_answer_has_its_metrics_and_its_default_first():
    """Metrics in files of their own may follow."""
    first = {
        "label": ["accuracy", "f1", "f1_micro", "f1_macro", "matthews"],
        "number": ["pearson", "spearman"],
        "text": ["exact_match", "token_f1", "bleu", "chrf"],
    }
    for kind, names in first.items():
        assert [metric.name for metric in metrics_for(kind)][: len(names)] == names


def test_every_metric_is_compared_with_an_implementation_of_the_fields():
    assert set(REFERENCES) == set(METRICS)


def test_metrics_of_three_classes_leave_out_the_binary_one():
    assert "f1" in [metric.name for metric in metrics_for("label", classes=2)]
    assert "f1" not in [metric.name for metric in metrics_for("label", classes=3)]


def test_without_classes_only_metrics_are_left_that_tell_none_apart():
    assert [metric.name for metric in metrics_for("label", classes=0)] == ["accuracy"]
    for kind in ("number", "text"):
        assert metrics_for(kind, classes=0) == metrics_for(kind)


def test_metrics_are_known_by_their_names():
    assert all(get(name) is metric and metric.name == name for name, metric in METRICS.items())


def test_an_unknown_name_or_kind_is_told_what_is_known():
    with pytest.raises(InputError, match=r"metric=acuracy: unknown; known are accuracy, f1, f1_micro"):
        get("acuracy")
    with pytest.raises(InputError, match=r"kind 'labels'; known kinds are label, number, text"):
        metrics_for("labels")


def test_a_new_metric_comes_after_the_others_of_its_kind(registry):
    metric = register(Metric("error", "error", "label", lambda answer, label, classes: (answer != label, 1), mean))
    assert get("error") is metric
    assert metrics_for("label")[-1] is metric
    assert metric.score([0, 1, 1, 1], [0, 0, 1, 0]) == 0.5


def test_a_name_is_given_once(registry):
    with pytest.raises(ValueError, match="two metrics named 'accuracy'"):
        register(METRICS["accuracy"])


def test_there_must_be_as_many_answers_as_references_and_at_least_one():
    with pytest.raises(ValueError, match="2 answers, but 1 references"):
        get("accuracy").score([0, 1], [0])
    with pytest.raises(InputError, match="no items"):
        get("accuracy").score([], [])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_package_is_a_leaf(path):
    """numpy, the standard library, errors; anything else is imported where it is needed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    at_import = {imported(node) for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)}
    anywhere = {imported(node) for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)}
    allowed = {"numpy", "adaptbench.errors", "adaptbench.metrics"} | sys.stdlib_module_names
    assert at_import <= allowed
    assert anywhere <= allowed | LAZY


def imported(node: ast.Import | ast.ImportFrom) -> str:
    """The package a statement imports, of this project with its part: adaptbench.errors."""
    module = node.names[0].name if isinstance(node, ast.Import) else node.module or ""
    return ".".join(module.split(".")[: 2 if module.startswith("adaptbench") else 1])


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, adaptbench.metrics; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "numpy" in loaded
    assert not {"torch", "transformers", "pandas", "scipy", "sklearn", "sacrebleu"} & set(loaded)
