"""What a file says is what a row holds; what cannot be read is one line with its place."""

import json

import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adaptbench.data.readers import Malformed, read_rows
from adaptbench.errors import InputError

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def read(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_rows(path, "mine")


@pytest.mark.parametrize("name", ["rows.csv", "rows.tsv"])
def test_separated_files_are_text(tmp_path, name):
    """No number, truth value or missing value is read into them."""
    cells = ["00052", "41.70", "1e5", "12345678901234567040", "NA", "", "nan", "true", "None", " a ", "2020-01-01"]
    separator = "," if name.endswith("csv") else "\t"
    header = [f"c{i}" for i in range(len(cells))]
    content = "\n".join(separator.join(row) for row in (header, cells)) + "\n"
    assert read(tmp_path, name, content) == [dict(zip(header, cells, strict=True))]


@settings(max_examples=50)
@given(st.lists(st.tuples(TEXT, TEXT), min_size=1))
def test_what_a_csv_is_written_from_is_what_is_read(tmp_path_factory, pairs):
    rows = [{"text": text or "-", "label": label} for text, label in pairs]
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    pd.DataFrame(rows, dtype=str).to_csv(path, index=False, quoting=1)
    assert read_rows(path, "mine") == rows


def test_marks_line_ends_quotes_and_blank_lines_of_a_csv(tmp_path):
    content = '\ufefftext,label\r\n\r\n"two\r\nlines, ""quoted""",0\r\n"",1\r\n   \r\n'
    rows = [{"text": 'two\r\nlines, "quoted"', "label": "0"}, {"text": "", "label": "1"}]
    assert read(tmp_path, "rows.csv", content) == rows


def test_quotation_marks_of_a_tsv_are_characters(tmp_path):
    assert read(tmp_path, "rows.tsv", 'text\tlabel\n"a" said "b\t0\n') == [{"text": '"a" said "b', "label": "0"}]


def test_long_fields_and_wide_files(tmp_path):
    names = [f"c{i}" for i in range(3000)]
    (row,) = read(tmp_path, "wide.csv", ",".join(["text", *names]) + "\n" + ",".join(["x" * 300_000, *names]) + "\n")
    assert len(row["text"]) == 300_000
    assert row["c2999"] == "c2999"


def test_a_column_without_a_name_is_left_out(tmp_path):
    assert read(tmp_path, "rows.csv", ",text,,\n0,a,,\n1,b,,\n") == [{"text": "a"}, {"text": "b"}]


def test_ragged_rows_are_malformed_and_the_others_are_read(tmp_path):
    assert read(tmp_path, "rows.csv", 'text,label\n"a\nb",0\nc\nd,1,2\ne,1\n') == [
        {"text": "a\nb", "label": "0"},
        Malformed("row 1 (line 4)", "1 field, expected the header's 2"),
        Malformed("row 2 (line 5)", "3 fields, expected the header's 2"),
        {"text": "e", "label": "1"},
    ]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("rows.csv", "text,label,text\na,0,b\n", ": the column 'text' stands twice"),
        ("rows.tsv", "text\tlabel\tlabel\na\t0\t1\n", ": the column 'label' stands twice"),
        ("rows.csv", "text;label\na;0\n", "fields are separated by ',', not by ';'"),
        ("rows.csv", "text\tlabel\na\t0\n", r"fields are separated by ',', not by '\t'"),
        ("rows.tsv", "text,label\na,0\n", r"fields are separated by '\t', not by ','"),
        ("rows.csv", 'text,label\na,0\n"b,1\nc,0\n', ", row 1 (line 4): unexpected end of data"),
        ("rows.csv", 'text,label\n"5" disk",0\n', ", row 0 (line 2): ',' expected after '\"'"),
        ("rows.csv", "", " is empty: expected a header"),
        ("rows.csv", "text,label\ncaf\xe9,0\n".encode("latin-1"), " is not UTF-8 (byte 14, line 2)"),
        ("rows.csv", "text,label\na,0\n".encode("utf-16"), " is UTF-16: expected UTF-8"),
        ("rows.csv", "text,label\na,0\n".encode("utf-16-le"), " holds NUL bytes"),
        ("rows.json", "[1, 2", ", line 1: not JSON"),
        ("rows.json", "[" * 100_000, ": nested too deeply"),
        ("rows.json", '{\n"data": []\n}', ": one JSON value over several lines"),
        ("rows.parquet", "text", "cannot read"),
        ("rows.txt.bz2", "text", "cannot read"),
    ],
)
def test_what_is_wrong_with_a_whole_file_is_one_line(tmp_path, name, content, says):
    with pytest.raises(InputError, match="dataset 'mine'") as caught:
        read(tmp_path, name, content)
    assert says in str(caught.value)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


ROWS = [{"text": "a\u2028b", "n": 1.5, "nested": {"list": [1, None, "x"]}}, {"text": "\U0001f600", "n": None}]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_json_array_is_its_objects(tmp_path, indent):
    assert read(tmp_path, "rows.json", json.dumps(ROWS, indent=indent)) == ROWS
    assert read(tmp_path, "rows.json", "\n" + json.dumps(ROWS, ensure_ascii=False, indent=indent)) == ROWS


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_an_object_a_line_in_files_of_both_names(tmp_path, name):
    lines = "\ufeff" + "\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    assert read(tmp_path, name, lines) == ROWS


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"text": ', "not JSON"),
        ("[1, 2]", "expected an object, found [1, 2]"),
        ("[", "an array belongs in a .json file"),
        ('"text"', "expected an object"),
        (r'{"text": "a \ud83d b"}', "field 'text' holds a lone surrogate"),
        (r'{"text": "a \uDE00"}', "field 'text' holds a lone surrogate"),
        (r'{"a": {"b": ["x", "\ud83d"]}}', "field 'a.b' holds a lone surrogate"),
        (r'{"\ud83d": 1}', r"the field '\ud83d' holds a lone surrogate"),
        ('{"text": "a", "text": "b"}', "the field 'text' stands twice"),
        ('{"a": {"b": 1, "b": 2}}', "the field 'b' stands twice"),
        ('{"n": ' + "1" * 5000 + "}", "not JSON that can be read"),
        ("[" * 100_000, "not JSON that can be read"),
    ],
)
def test_a_bad_line_is_malformed_and_the_others_are_read(tmp_path, line, says):
    first, bad, last = read(tmp_path, "rows.jsonl", f'{{"text": "a"}}\n\n{line}\n{{"text": "\\ud83d\\ude00"}}\n')
    assert (first, last) == ({"text": "a"}, {"text": "\U0001f600"})
    assert isinstance(bad, Malformed)
    assert bad.place == "line 3"
    assert says in bad.reason


def test_bad_items_of_an_array_are_malformed_too(tmp_path):
    rows = read(tmp_path, "rows.json", r'[{"text": "a"}, {"text": "\ud83d"}, 3, {"text": "b"}]')
    assert rows[::3] == [{"text": "a"}, {"text": "b"}]
    assert [row.place for row in rows[1:3]] == ["row 1", "row 2"]


def test_parquet_keeps_integers_beside_nulls(tmp_path):
    """A frame would turn a column of integers with a null into fractions: 1 would become 1.0."""
    columns = {"text": ["a", None], "n": [1, None], "x": [0.5, float("nan")], "list": [[1, None], []]}
    folder = tmp_path / "split=test"  # no column, though it looks like one
    folder.mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), folder / "rows.parquet")
    first, second = read_rows(folder / "rows.parquet", "mine")
    assert first == {"text": "a", "n": 1, "x": 0.5, "list": [1, None]}
    assert type(first["n"]) is int
    assert (second["text"], second["n"], second["list"]) == (None, None, [])


def test_a_parquet_column_twice_is_named(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    with pytest.raises(InputError, match="the column 'text' stands twice"):
        read_rows(tmp_path / "rows.parquet", "mine")
