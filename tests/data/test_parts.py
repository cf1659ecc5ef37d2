"""A path names a file, several files, some of the rows, or a list inside."""

import json

import pytest

from adaptbench.data.parts import is_there, read_part
from adaptbench.data.sources import load_task
from adaptbench.errors import InputError
from adaptbench.schema import DatasetConfig
from tests.data.test_sources import TEMPLATES, write

ROWS = [{"text": f"row {i}", "label": str(i % 2)} for i in range(10)]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "rows.jsonl", ROWS)
    for part in (0, 1, 2):
        write(tmp_path / f"train_{part}.jsonl", ROWS[part : part + 1])
    lists = {"train": [["a", "no"], ["b", "yes"]], "test": [{"text": "c"}], "names": {"a": 1}}
    (tmp_path / "lists.json").write_text(json.dumps(lists), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("rows.jsonl", ROWS),
        ("rows.jsonl[:4]", ROWS[:4]),
        ("rows.jsonl[4:]", ROWS[4:]),
        ("rows.jsonl[2:5]", ROWS[2:5]),
        ("rows.jsonl[-3:]", ROWS[-3:]),
        ("train_*.jsonl", ROWS[:3]),
        ("train_*.jsonl[1:]", ROWS[1:3]),
        ("lists.json#train", [{"0": "a", "1": "no"}, {"0": "b", "1": "yes"}]),
        ("lists.json#train[1:]", [{"0": "b", "1": "yes"}]),
        ("lists.json#test", [{"text": "c"}]),
    ],
)
def test_a_path_names_rows(folder, path, rows):
    assert is_there(folder / path)
    assert read_part(folder / path, "mine") == rows


def test_a_name_that_looks_like_a_part_is_a_file_where_there_is_one(folder):
    write(folder / "odd[:1].jsonl", ROWS)
    assert read_part(folder / "odd[:1].jsonl", "mine") == ROWS


@pytest.mark.parametrize("path", ["nowhere.jsonl", "nowhere_*.jsonl", "nowhere.jsonl[:3]", "nowhere.json#train"])
def test_what_is_not_there_is_one_clear_line(folder, path):
    assert not is_there(folder / path)
    with pytest.raises(InputError, match=r"no such file: .*nowhere"):
        read_part(folder / path, "mine")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"train": [["a"]]}', "no list 'dev' in it, expected one of train"),
        ('{"dev": {"a": 1}}', "no list 'dev' in it, expected one of none"),
        ("[1, 2]", "no list 'dev' in it"),
        ('{"dev": [', "line 1: not JSON"),
    ],
)
def test_a_list_that_is_not_in_the_file_is_one_clear_line(tmp_path, content, says):
    (tmp_path / "lists.json").write_text(content)
    with pytest.raises(InputError) as caught:
        read_part(tmp_path / "lists.json#dev", "mine")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_row_of_a_list_that_is_no_row_is_named(tmp_path):
    (tmp_path / "lists.json").write_text('{"dev": [["a"], 7]}')
    rows = read_part(tmp_path / "lists.json#dev", "mine")
    assert (rows[1].place, rows[1].reason) == ("row 1", "expected an object, found 7")


def test_files_without_a_header_get_one(tmp_path):
    (tmp_path / "bare.tsv").write_text('a\t0\t\t"Quoted\nb\t1\t*\tNext\n')
    rows = read_part(tmp_path / "bare.tsv", "mine", ["source", "label", "mark", "sentence"])
    assert [(row["label"], row["sentence"]) for row in rows] == [("0", '"Quoted'), ("1", "Next")]
    with pytest.raises(InputError, match=r"dataset.header=\['label'\]: only CSV and TSV"):
        read_part(write_jsonl(tmp_path), "mine", ["label"])


def write_jsonl(folder):
    write(folder / "rows.jsonl", ROWS)
    return folder / "rows.jsonl"


def task(folder, **changes):
    known = {"name": "mine", "source": "files", "folder": str(folder), "shots": 2, "templates": TEMPLATES}
    return load_task(DatasetConfig(**{**known, **changes}))


def test_two_parts_of_a_file_are_a_training_and_an_evaluation_set(folder):
    found = task(folder, train="rows.jsonl[:6]", evaluation="rows.jsonl[6:]")
    assert [example.fields["text"] for example in found.train] == [row["text"] for row in ROWS[:6]]
    assert [example.fields["text"] for example in found.evaluation] == [row["text"] for row in ROWS[6:]]


def test_repeated_rows_are_left_out_of_training_where_asked(tmp_path):
    """Of a content that stands twice the first row is kept; an evaluated one is not trained on; white space is none."""
    texts = ["a", "b", " a\n", "c", "b", "d"]
    train = write(tmp_path / "train.jsonl", [{"text": text, "label": i % 2} for i, text in enumerate(texts)])
    evaluation = write(tmp_path / "eval.jsonl", [{"text": text, "label": 0} for text in ("c", "c ", "e")])
    files = {"train": train, "evaluation": evaluation}
    assert len(task(tmp_path, **files).train) == 6
    found = task(tmp_path, **files, deduplicate=["text"])
    assert [(example.uid, example.fields["text"]) for example in found.train] == [("0", "a"), ("1", "b"), ("5", "d")]
    assert len(found.evaluation) == 3, "an evaluation set stays as it is"
    with pytest.raises(InputError, match=r"dataset.deduplicate='sentence': no such field"):
        task(tmp_path, **files, deduplicate=["sentence"])
