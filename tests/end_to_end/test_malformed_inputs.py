"""Forty ways a user's data or settings can be wrong, and more: each is one clear line, exit code 2, no model loaded."""

import json
from pathlib import Path

import pandas as pd
import pytest

GOOD = [{"text": f"row {i}", "label": ("bad", "good")[i % 2]} for i in range(8)]
FILES = ("dataset=files", "dataset.train=train.jsonl", "dataset.evaluation=eval.jsonl", "dataset.shots=4", "seeds=[0]")
LABELS = "dataset.labels={bad: 0, good: 1}"


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def template(jinja: str, choices: str = "no ||| yes") -> tuple[str, ...]:
    """Overrides that make one of the dataset's templates this one."""
    quoted = [text.replace("'", "\\'") for text in (jinja, choices)]
    return (
        f"dataset.templates.plain.jinja='{quoted[0]}'",
        f"dataset.templates.plain.answer_choices='{quoted[1]}'",
        "template=plain",
    )


ASKS = "{{text}} ||| {{answer_choices[label]}}"

# What is wrong: (files that replace the good ones, arguments, what the line says)
CASES: dict[str, tuple[dict[str, str | bytes], tuple[str, ...], str]] = {
    "bad JSON line": ({"eval.jsonl": jsonl(GOOD[0]) + '{"text": \n'}, (), "line 2: not JSON"),
    "JSON list": ({"eval.jsonl": "[1, 2]\n"}, (), "line 1: expected an object"),
    "JSON over several lines": ({"eval.jsonl": json.dumps(GOOD, indent=1)}, (), "line 1: not JSON"),
    "not UTF-8": ({"eval.jsonl": '{"text": "caf\xe9", "label": "bad"}\n'.encode("latin-1")}, (), "not UTF-8 (byte"),
    "CSV not UTF-8": (
        {"e.csv": "text,label\ncaf\xe9,0\n".encode("latin-1")},
        ("dataset.evaluation=e.csv",),
        "not UTF-8",
    ),
    "ragged CSV": (
        {"e.csv": "text,label\na,bad\nb,good,2,3\n"},
        ("dataset.evaluation=e.csv",),
        "e.csv, row 1 (line 3): 4 fields, expected the header's 2",
    ),
    "CSV row cut short": (
        {"e.csv": 'text,label\n"a\nb",bad\nc\n'},
        ("dataset.evaluation=e.csv",),
        "e.csv, row 1 (line 4): 1 field, expected the header's 2",
    ),
    "CSV column twice": (
        {"e.csv": "text,label,text\na,bad,b\n"},
        ("dataset.evaluation=e.csv",),
        "e.csv: the column 'text' stands twice",
    ),
    "CSV with semicolons": (
        {"e.csv": "text;label\na;bad\n"},
        ("dataset.evaluation=e.csv",),
        "separated by ',', not by ';'",
    ),
    "CSV with a quotation mark that never ends": (
        {"e.csv": 'text,label\n"a,bad\nb,good\n'},
        ("dataset.evaluation=e.csv",),
        "e.csv, row 0 (line 3): unexpected end of data",
    ),
    "UTF-16": ({"e.csv": "text,label\na,bad\n".encode("utf-16")}, ("dataset.evaluation=e.csv",), "e.csv is UTF-16"),
    "lone surrogate": (
        {"eval.jsonl": jsonl(GOOD[0]) + '{"text": "a \\ud83d b", "label": "bad"}\n'},
        (),
        "eval.jsonl, line 2: field 'text' holds a lone surrogate",
    ),
    "null that is shown": (
        {"eval.jsonl": jsonl(*GOOD, {"text": None, "label": "bad"})},
        (),
        "eval.jsonl, row 8: the field 'text' is null, and the template shows it (dataset.skip_bad_rows=true leaves",
    ),
    "a key twice": (
        {"eval.jsonl": '{"text": "a", "text": "b", "label": "bad"}'},
        (),
        "line 1: the field 'text' stands twice",
    ),
    "one object over several lines": (
        {"e.json": json.dumps({"data": GOOD}, indent=1)},
        ("dataset.evaluation=e.json",),
        "e.json: one JSON value over several lines",
    ),
    "broken JSON array": (
        {"e.json": '[{"text": "a"},\n {"text" 1}]'},
        ("dataset.evaluation=e.json",),
        "e.json, line 2: not",
    ),
    "nothing but bad rows": (
        {"eval.jsonl": jsonl(*[{"text": "a", "label": "so-so"}] * 3)},
        ("dataset.skip_bad_rows=true",),
        "eval.jsonl: every row is bad; the first: eval.jsonl, row 0: label 'so-so': expected bad, good",
    ),
    "a number that is none": ({}, ("dataset.numbers=[text]",), "row 0: dataset.numbers: 'text' is 'row 0'"),
    "an index that is none": (
        {},
        ("dataset.labels={bad: no, good: 1}",),
        "dataset.labels: 'bad': 'no': expected the index",
    ),
    "labels that are no mapping": ({}, ("dataset.labels=[bad,good]",), "expected a mapping such as {bad: 0, good: 1}"),
    "a label twice": ({}, ("dataset.labels={bad: 0, 'bad': 1}",), "'bad' stands twice, for 0 and for 1"),
    "CSV without rows": ({"e.csv": "text,label\n"}, ("dataset.evaluation=e.csv",), "has no rows"),
    "empty file": ({"eval.jsonl": ""}, (), "eval.jsonl has no rows"),
    "empty CSV": ({"e.csv": ""}, ("dataset.evaluation=e.csv",), "e.csv is empty"),
    "not Parquet": ({"e.parquet": "text"}, ("dataset.evaluation=e.parquet",), "cannot read e.parquet"),
    "unknown suffix": ({"e.xlsx": "x"}, ("dataset.evaluation=e.xlsx",), "expected .jsonl, .json, .csv"),
    "missing file": ({}, ("dataset.evaluation=nowhere.jsonl",), "no such file: nowhere.jsonl"),
    "a folder for a file": ({}, ("dataset.evaluation=.",), "no such file"),
    "no evaluation": ({}, ("dataset.evaluation=null",), "'evaluation' must name a file"),
    "missing column": ({}, ("dataset.columns={text: sentence}",), "no column 'sentence' (columns: text, label)"),
    "missing label": ({"eval.jsonl": jsonl({"text": "a"})}, (), "eval.jsonl, row 0: no column 'label'"),
    "unknown label": ({"eval.jsonl": jsonl({"text": "a", "label": "so-so"})}, (), "label 'so-so': expected bad, good"),
    "label out of range": (
        {"eval.jsonl": jsonl(*GOOD, {"text": "a", "label": 2})},
        (),
        "row 8: label 2: expected bad, good",
    ),
    "negative label": ({"eval.jsonl": jsonl({"text": "a", "label": -3})}, (), "row 0: label -3"),
    "fractional label": ({"eval.jsonl": jsonl({"text": "a", "label": 0.5})}, (), "label 0.5: expected bad, good"),
    "null label": ({"eval.jsonl": jsonl({"text": "a", "label": None})}, (), "row 0: label null: expected bad, good"),
    "label beyond the choices": (
        {"eval.jsonl": jsonl({"text": "a", "label": "good"})},
        template(ASKS, "yes"),
        "label 1 is outside the 1 choices",
    ),
    "an identity twice, asked for": (
        {"eval.jsonl": jsonl(*[{**GOOD[0], "id": 7}] * 2)},
        ("dataset.columns={uid: id}", "dataset.train=null"),
        "eval.jsonl: dataset.columns.uid='id': '7' names two rows",
    ),
    "empty text": (
        {"eval.jsonl": jsonl({"text": "  ", "label": "bad"})},
        ("template=plain",),
        "eval.jsonl, row 0: the rendered input is empty (dataset.skip_bad_rows=true leaves such rows out)",
    ),
    "empty text in training": (
        {"train.jsonl": jsonl(*[{"text": "", "label": "bad"}] * 8)},
        (),
        "the rendered input is empty",
    ),
    "empty choice": ({}, template(ASKS, "yes ||| "), "non-empty choices"),
    "one choice": ({}, template(ASKS, "yes"), "at least two"),
    "equal choices": ({}, template(ASKS, "yes ||| yes"), "the choices repeat"),
    "template syntax": ({}, template("{{text ||| x"), "template 'plain': syntax error"),
    "unknown field": (
        {},
        template("{{txet}} ||| {{answer_choices[label]}}"),
        "eval.jsonl, row 0: cannot render: 'txet' is undefined",
    ),
    "wrong type of field": (
        {},
        template("{{text + 1}} ||| {{answer_choices[label]}}"),
        "(reads label: int, text: str)",
    ),
    "no target": ({}, template("{{text}}"), "expected 'input ||| target'"),
    "another target": ({}, template("{{text}} ||| perhaps"), "is not the choice"),
    "code in a template": ({}, template("{{text.__class__.__mro__}} ||| x"), "unsafe"),
    "unknown template": ({}, ("template=fancy",), "template='fancy': not a template of dataset 'files'"),
    "zero shots": ({}, ("shots=0",), "shots=0: expected at least 1"),
    "more shots than rows": ({}, ("shots=9",), "has only 8 training rows"),
    "too few of a class": (
        {"train.jsonl": jsonl(*[{"text": "a", "label": ("bad", "good")[i == 0]} for i in range(8)])},
        ("dataset.sampling=stratified",),
        "only 1 rows of label 1",
    ),
    "wrong type": ({}, ("limit=many",), "Value 'many' of type 'str' could not be converted to Integer"),
    "wrong shots": ({}, ("dataset.shots=many",), "dataset.shots='many': expected at least 1, or all"),
    "wrong sampling": ({}, ("dataset.sampling=balanced",), "expected one of natural, stratified"),
    "draws without seed": ({}, ("dataset.draws=draws.jsonl",), "expected a path with {seed} in it"),
    "no draw": ({}, ("dataset.draws='{seed}.jsonl'",), "no few-shot draw matches"),
    "no draw of this seed": (
        {"1.jsonl": jsonl(*GOOD)},
        ("dataset.draws='{seed}.jsonl'",),
        "no few-shot draw for seed 0",
    ),
    "unknown prompts": ({}, ("dataset.prompts=mine",), "expected own or promptsource"),
    "missing promptsource": (
        {},
        ("dataset.prompts=promptsource", "dataset.promptsource=promptsource/anli/templates.yaml"),
        "fetch them with: curl",
    ),
    "broken promptsource": (
        {"t.yaml": "templates: [1, 2]"},
        ("dataset.prompts=promptsource", "dataset.promptsource=t.yaml"),
        "is not a promptsource file",
    ),
    "promptsource entry without jinja": (
        {"t.yaml": "templates: {a: {name: a, answer_choices: yes ||| no}}"},
        ("dataset.prompts=promptsource", "dataset.promptsource=t.yaml"),
        "is not a promptsource file",
    ),
    "promptsource choices that are no text": (
        {"t.yaml": "templates: {a: {name: a, jinja: x, answer_choices: [1], metadata: {original_task: true}}}"},
        ("dataset.prompts=promptsource", "dataset.promptsource=t.yaml"),
        "template 'a': jinja and answer_choices must be text",
    ),
    "column that is a number": (
        {},
        ("dataset.columns={text: 5}",),
        "dataset.columns.text=5: expected the name",
    ),
    "column that is null": ({}, ("dataset.columns={text: null}",), "dataset.columns.text=None: expected the name"),
    "label below every choice": (
        {},
        ("dataset.labels={bad: -1, good: 0}",),
        "-1 is no index of a choice",
    ),
    "unknown operation": ({}, ("dataset.operations=[polish]",), "expected one of ag_news, hellaswag"),
    "operation on other rows": ({}, ("dataset.operations=[hellaswag]",), "does not fit the row"),
    "no losses left": (
        {},
        ("dataset.without_losses=[lm,unlikelihood,length_normalized]",),
        "leaves the recipe without a loss",
    ),
    "float16 T5": ({}, ("model.dtype=float16",), "T5 overflows in float16; use bfloat16 or float32"),
    "unknown device map": ({}, ("model.device_map=balanced",), "expected auto or null"),
    "unknown quantisation": ({}, ("model.quantization=2bit",), "expected one of none, 8bit, 4bit"),
}
# Wrong only once a tokenizer has read it.
AFTER_LOADING: dict[str, tuple[dict[str, str | bytes], tuple[str, ...], str]] = {
    "over-long example": (
        {"eval.jsonl": jsonl(*GOOD, {"text": "long " * 4000, "label": "bad"})},
        ("template=plain",),
        "do not fit model.max_length=2048 (model.overlong=truncate",
    ),
    "unknown device": ({}, ("device=gpu",), "device='gpu': "),
    "demonstrations shared by an encoder": ({}, ("method=icl_cached",), "method.cached=true: an encoder"),
    "unknown hub model offline": (
        {},
        ("model.path=nobody/nothing",),
        "model.path='nobody/nothing': not a model folder",
    ),
}


def run(call, files, arguments) -> int:
    for name, content in {"train.jsonl": jsonl(*GOOD), "eval.jsonl": jsonl(*GOOD), **files}.items():
        Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return call(*FILES, LABELS, "method=zero_shot", "progress=false", *arguments)


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert captured.out == ""
    return lines[0]


@pytest.mark.parametrize("case", CASES)
def test_malformed_input_is_one_clear_line(call, capsys, monkeypatch, case):
    files, arguments, says = CASES[case]

    def forbidden(*_, **__):
        raise AssertionError("a model was loaded")

    if case != "float16 T5":  # known once the model's configuration is read, before its weights
        monkeypatch.setattr("adaptbench.tasks.base.TaskType.load", forbidden)
    assert run(call, files, arguments) == 2
    assert says in one_line(capsys)
    assert not list(Path("outputs").rglob("records/*.json"))


@pytest.mark.parametrize("case", AFTER_LOADING)
def test_what_only_a_tokenizer_or_the_hub_can_know(call, capsys, monkeypatch, case):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    files, arguments, says = AFTER_LOADING[case]
    assert run(call, files, arguments) == 2
    assert says in one_line(capsys)


@pytest.mark.parametrize(
    ("content", "says"), [(b"name: [1,", "mine.yaml"), ("shots: 4 # caf\xe9".encode("latin-1"), "utf-8")]
)
def test_a_broken_yaml_of_the_users_own(call, capsys, tmp_path, content, says):
    (tmp_path / "conf" / "dataset").mkdir(parents=True)
    (tmp_path / "conf" / "dataset" / "mine.yaml").write_bytes(content)
    assert call("dataset=mine", f"hydra.searchpath=[file://{tmp_path}/conf]") == 2
    assert says in one_line(capsys)


@pytest.mark.parametrize("package", ["no package", "offline"])
def test_a_hub_dataset_that_is_not_at_hand(call, capsys, monkeypatch, tmp_path, package):
    import sys
    import types

    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach\nthe Hub")

    module = None if package == "no package" else types.SimpleNamespace(load_dataset=load_dataset)
    monkeypatch.setitem(sys.modules, "datasets", module)
    assert call("dataset=rte", f"dataset.folder={tmp_path}", "method=zero_shot", "progress=false") == 2
    line = one_line(capsys)
    assert (
        "pip install 'adaptbench[hub]'" if package == "no package" else "load_dataset('aps/super_glue', 'rte')"
    ) in line
    assert "ADAPTBENCH_DATA" in line


def test_the_good_input_of_these_tests_is_good(call, capsys):
    """Or else the cases above would prove nothing. Text, CSV and Parquet, no template written by the user."""
    assert run(call, {}, ("limit=4",)) == 0
    pd.DataFrame(GOOD).to_parquet("e.parquet")
    assert run(call, {"e.csv": "text,label\na,bad\n"}, ("dataset.evaluation=e.csv", "template=all")) == 0
    assert call(*FILES, LABELS, "method=zero_shot", "progress=false", "dataset.evaluation=e.parquet") == 0
    records = [json.loads(path.read_text()) for path in Path("outputs/default/records").glob("*.json")]
    (every,) = (record for record in records if record["template"] == "all")
    assert set(every["score_by_template"]) == {"plain", "question", "labelled"}
    assert every["n_eval"] == 1
    assert every["score"] == pytest.approx(sum(scored["score"] for scored in every["score_by_template"].values()) / 3)


def test_bad_rows_are_left_out_and_named_in_the_record(call):
    """A line that is no JSON, a label of another set and a null; the run is that of the file without them."""
    bad = '{"text": \n' + jsonl({"text": "a", "label": 2}, {"text": None, "label": "bad"})
    assert run(call, {"eval.jsonl": bad + jsonl(*GOOD)}, ("dataset.skip_bad_rows=true", "output=some")) == 0
    (path,) = Path("some/records").glob("*.json")
    record = json.loads(path.read_text())
    assert (record["n_skipped"], record["n_eval"]) == (3, 8)
    places = [text.split(":")[0] for text in record["provenance.skipped_rows"]]
    assert places == ["eval.jsonl, line 1", "eval.jsonl, row 1", "eval.jsonl, row 2"]
    assert run(call, {}, ("output=all",)) == 0
    (whole,) = Path("all/records").glob("*.json")
    every = json.loads(whole.read_text())
    assert (every["n_skipped"], every["provenance.skipped_rows"]) == (0, [])
    assert (every["run_id"], every["score"]) == (record["run_id"], record["score"])


def test_labels_of_any_name_reach_every_cell_of_a_sweep(call):
    rows = [{"text": f"row {i}", "label": (1, 'schön, "gut"')[i % 2]} for i in range(8)]
    Path("rows.jsonl").write_text(jsonl(*rows))
    own = ("dataset.train=rows.jsonl", "dataset.evaluation=rows.jsonl", "dataset.labels={1: 0, 'schön, \"gut\"': 1}")
    assert call("-m", "dataset=files", *own, "dataset.shots=4", "seeds=[0]", "method=zero_shot", "limit=2,3") == 0
    found = [json.loads(path.read_text()) for path in Path("outputs/default/records").glob("*.json")]
    assert sorted(record["n_eval"] for record in found) == [2, 3]
    assert found[0]["provenance.config"]["dataset"]["labels"] == {"1": 0, 'schön, "gut"': 1}
