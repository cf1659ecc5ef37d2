"""A folder is replaced as a whole, and what is not the program's own is never lost."""

import os
from pathlib import Path

import pytest

from adaptbench.errors import InputError
from adaptbench.pretraining.output import check_replaceable, replace_folder


def writing(**files: str):
    def write(folder: Path) -> None:
        for name, text in files.items():
            (folder / name).write_text(text)

    return write


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_a_folder_is_made_and_replaced_with_nothing_left_beside_it(tmp_path):
    place = tmp_path / "inside" / "model"
    assert replace_folder(place, writing(a="1", b="1")) is None
    assert contents(place) == {"a": "1", "b": "1"}
    assert replace_folder(place, writing(a="2", b="2", c="2")) is None
    assert contents(place) == {"a": "2", "b": "2", "c": "2"}
    assert os.listdir(place.parent) == ["model"]


def test_everything_is_on_the_disk_before_the_rename(tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("adaptbench.pretraining.output.sync", lambda path: done.append((path.name, path.exists())))
    replace_folder(tmp_path / "model", writing(a="1"))
    assert done == [("a", True), (".model.partial", True), (tmp_path.name, True)]


def test_a_failure_while_writing_leaves_the_earlier_folder_as_it_was(tmp_path):
    replace_folder(tmp_path / "model", writing(a="1"))

    def fails(folder):
        (folder / "a").write_text("2")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace_folder(tmp_path / "model", fails)
    assert contents(tmp_path / "model") == {"a": "1"}
    assert os.listdir(tmp_path) == ["model"]


@pytest.mark.parametrize("there", ["earlier", "both", "none"])
def test_what_a_kill_left_behind_is_mended_by_the_next_call(tmp_path, there):
    replace_folder(tmp_path / ".model.partial", writing(a="half"))
    if there != "none":
        replace_folder(tmp_path / ".model.earlier", writing(a="1"))
    if there == "both":
        replace_folder(tmp_path / "model", writing(a="2"))
    seen = []
    replace_folder(
        tmp_path / "model", lambda folder: seen.append(sorted(os.listdir(tmp_path))) or writing(a="3")(folder)
    )
    assert seen == [[".model.partial"] if there == "none" else [".model.partial", "model"]]
    assert contents(tmp_path / "model") == {"a": "3"}
    assert os.listdir(tmp_path) == ["model"]


def test_files_without_a_successor_are_kept_aside(tmp_path):
    for number in ("", "1"):
        replace_folder(tmp_path / "model", writing(a="1", mine="notes"))
        kept = replace_folder(tmp_path / "model", writing(a="2"))
        assert kept == tmp_path / f"model.earlier{number}"
        assert contents(kept) == {"a": "1", "mine": "notes"}
    assert contents(tmp_path / "model") == {"a": "2"}


def test_a_link_to_a_folder_stays_one(tmp_path):
    (tmp_path / "disk" / "model").mkdir(parents=True)
    (tmp_path / "model").symlink_to(tmp_path / "disk" / "model")
    replace_folder(tmp_path / "model", writing(a="1"))
    assert (tmp_path / "model").is_symlink()
    assert contents(tmp_path / "disk" / "model") == {"a": "1"}


def test_only_new_empty_and_earlier_folders_can_be_replaced(tmp_path, monkeypatch):
    check_replaceable(tmp_path / "new", "output")
    check_replaceable(tmp_path, "output")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="no earlier output, expected a new folder"):
        check_replaceable(tmp_path, "output")
    (tmp_path / "provenance.json").write_text("{}")
    check_replaceable(tmp_path, "output")
    with pytest.raises(InputError, match="output='/': a mount point, expected a folder inside it"):
        check_replaceable(Path("/"), "output")
