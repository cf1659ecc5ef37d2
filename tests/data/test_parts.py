"""A path names a file, several files, some of the rows, or a list inside."""

import hashlib
import json
import sys
import types

import pytest

from adaptbench.data.parts import is_there, read_part, split_share
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


TITLED = [{"text": f"row {i}", "title": f"article {i % 17}", "n": i % 5, "label": i % 2} for i in range(120)]
HASHES = {row["title"]: int(hashlib.sha256(row["title"].encode()).hexdigest(), 16) % 100 for row in TITLED}


@pytest.mark.parametrize("name", ["titled.jsonl", "titled.json#train", "titled_*.jsonl"])
def test_hashes_of_a_column_name_rows(tmp_path, name):
    """Every row is in one of the shares, in the file's order, with all others that have its title."""
    write(tmp_path / "titled.jsonl", TITLED)
    write(tmp_path / "titled_0.jsonl", TITLED[:50])
    write(tmp_path / "titled_1.jsonl", TITLED[50:])
    (tmp_path / "titled.json").write_text(json.dumps({"train": TITLED}))
    bounds = {"[title%:70]": range(70), "[title%70:80]": range(70, 80), "[title%80:]": range(80, 100)}
    found = {share: read_part(tmp_path / f"{name}{share}", "mine") for share in bounds}
    assert all(is_there(tmp_path / f"{name}{share}") for share in bounds)
    for share, hashes in bounds.items():
        assert found[share] == [row for row in TITLED if HASHES[row["title"]] in hashes]
    assert all(found.values())
    assert read_part(tmp_path / f"{name}[title%:]", "mine") == TITLED


def test_a_row_stays_in_its_share_whatever_else_a_file_holds(tmp_path):
    write(tmp_path / "all.jsonl", TITLED)
    write(tmp_path / "few.jsonl", TITLED[::-3])
    many, few = ({row["text"] for row in read_part(tmp_path / f"{n}.jsonl[text%:30]", "mine")} for n in ("all", "few"))
    assert few == many & {row["text"] for row in TITLED[::-3]}
    assert {"row 0", "row 5"} & many == {f"row {i}" for i in (0, 5) if _hash(f"row {i}") < 30}


def _hash(text):
    return int(hashlib.sha256(text.encode()).hexdigest(), 16) % 100


def test_a_number_is_hashed_as_it_is_written(tmp_path):
    write(tmp_path / "all.jsonl", TITLED)
    assert {row["n"] for row in read_part(tmp_path / "all.jsonl[n%:50]", "mine")} == {
        n for n in range(5) if _hash(str(n)) < 50
    }


def test_a_row_that_cannot_be_read_is_lost_in_no_share(tmp_path):
    (tmp_path / "bad.jsonl").write_text('{"title": "a"}\n{"title": \n')
    for share in ("[title%:50]", "[title%50:]"):
        assert read_part(tmp_path / f"bad.jsonl{share}", "mine")[-1].place == "line 2"


EXPECTED = "expected [column%start:stop] with 0 <= start < stop <= 100"


@pytest.mark.parametrize(
    ("share", "says"),
    [
        ("[title%70:70]", f"titled.jsonl[title%70:70]: {EXPECTED}"),
        ("[title%80:70]", EXPECTED),
        ("[title%:101]", EXPECTED),
        ("[title%100:]", EXPECTED),
        ("[title%-10:]", EXPECTED),
        ("[title%a:b]", EXPECTED),
        ("[title%70]", EXPECTED),
        ("[title%]", EXPECTED),
        ("[titel%:70]", "row 0: no column 'titel' (columns: text, title, n, label)"),
        ("[10%:]", "no such file"),  # a slice of the hub's own
    ],
)
def test_hashes_that_cannot_be_are_one_clear_line(tmp_path, share, says):
    write(tmp_path / "titled.jsonl", TITLED)
    with pytest.raises(InputError) as caught:
        task(tmp_path, evaluation=f"titled.jsonl{share}")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_of_one_file_are_a_training_and_an_evaluation_set(tmp_path):
    write(tmp_path / "titled.jsonl", TITLED)
    found = task(tmp_path, train="titled.jsonl[title%:60]", evaluation="titled.jsonl[title%60:]")
    titles = [{example.fields["title"] for example in rows} for rows in (found.train, found.evaluation)]
    assert titles[0]
    assert titles[1]
    assert not titles[0] & titles[1]
    assert len(found.train) + len(found.evaluation) == len(TITLED)


def test_splits_of_the_hub_have_shares_too(tmp_path, monkeypatch):
    """The library is asked for the split, and for slices of its own kind as they stand."""
    asked = []

    def load_dataset(path, subset, split, **_):
        asked.append(split)
        return TITLED

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    hub = {"source": "hub", "path": "some/set", "evaluation": "test[10%:20%]"}
    found = task(tmp_path, **hub, train="train[title%:60]")
    assert asked == ["train", "test[10%:20%]"]
    assert [e.fields["text"] for e in found.train] == [row["text"] for row in TITLED if HASHES[row["title"]] < 60]
    with pytest.raises(InputError, match=r"some/set:train\[name%:60\], row 0: no column 'name'"):
        task(tmp_path, **hub, train="train[name%:60]")
    with pytest.raises(InputError, match=r"train\[title%60:10\]: expected"):
        task(tmp_path, **hub, train="train[title%60:10]")


@pytest.mark.parametrize("name", ["train", "train[:70]", "train[10%:20%]", "train[:10%]", "train[-5%:]", "a[b].csv"])
def test_other_names_are_no_shares(name):
    assert split_share(name) == (name, None)
