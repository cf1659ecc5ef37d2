"""A report is made again exactly when something it follows from, or a file of its own, has changed."""

import json

import pytest

from analysis import report
from analysis.freshness import STAMP
from tests.analysis.synthetic import write_experiment, write_failure


@pytest.fixture
def folder(tmp_path):
    write_experiment(tmp_path, methods=("ia3", "icl"), datasets=("micro_rte",), seeds=(0, 1))
    return tmp_path


@pytest.fixture
def made(monkeypatch):
    """A list with an entry for every time a report was really made."""
    calls, build = [], report.build
    monkeypatch.setattr(report, "build", lambda folder: calls.append(folder) or build(folder))
    return calls


def change_record(folder):
    path = sorted(folder.glob("records/*.json"))[0]
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"note": "longer"}))


def add_failure(folder):
    write_failure(folder, "f" * 12)


def delete_table(folder):
    sorted(folder.glob("tables/*"))[0].unlink()


def damage_stamp(folder):
    (folder / STAMP).write_text('{"inputs"')


def test_an_unchanged_report_is_not_made_again_and_prints_the_same(folder, made, capsys):
    assert report.main([str(folder)]) == 0
    first = capsys.readouterr().out
    assert report.main([str(folder)]) == 0
    assert capsys.readouterr().out == first
    assert str(folder / "report.html") in first
    assert len(made) == 1


@pytest.mark.parametrize("change", [change_record, add_failure, delete_table, damage_stamp])
def test_any_change_makes_it_again(folder, made, change):
    assert report.main([str(folder)]) == 0
    change(folder)
    assert report.main([str(folder)]) == 0
    assert report.main([str(folder)]) == 0
    assert len(made) == 2


def test_force_makes_it_again(folder, made):
    for arguments in ([], ["--force"]):
        assert report.main([str(folder), *arguments]) == 0
    assert len(made) == 2
