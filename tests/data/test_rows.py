"""Rows become examples: what names them, what is null, what is left out, and what a run's id makes of that."""

import json
import sys
import types

import pytest

from adaptbench.cell import prepare_cell
from adaptbench.config import register_schemas, resolve
from adaptbench.data.example import fingerprint
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.sources import load_task
from adaptbench.data.templates import Template
from adaptbench.errors import InputError, RowError
from adaptbench.methods.icl import _emptied
from adaptbench.schema import Config, DatasetConfig

ASKS = "{{text}} ||| {{answer_choices[label]}}"
HINT = " (dataset.skip_bad_rows=true leaves such rows out)"


def write(path, rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return str(path)


def files(tmp_path, rows, jinja=ASKS, choices="no ||| yes", **changes):
    path = write(tmp_path / "rows.jsonl", rows)
    templates = {"plain": {"jinja": jinja, "answer_choices": choices}}
    return DatasetConfig("mine", "files", evaluation=path, shots=2, templates=templates, **changes)


def rows_of(*columns):
    return [{"text": f"t{i}", "label": i % 2, **column} for i, column in enumerate(columns)]


@pytest.mark.parametrize(
    ("columns", "uids"),
    [
        ([{"uid": "a"}, {"uid": "b"}, {"uid": "c"}], ["a", "b", "c"]),
        ([{"uid": "a"}, {"uid": "b"}, {"uid": "a"}], ["0", "1", "2"]),
        ([{"uid": "a", "idx": 7}, {"uid": "a", "idx": 8}, {"uid": "b", "idx": 9}], ["7", "8", "9"]),
        ([{"idx": 1}, {"idx": "1"}, {"idx": 2}], ["0", "1", "2"]),
        ([{"uid": "a"}, {"uid": None}, {"uid": "b"}], ["0", "1", "2"]),
        ([{"uid": "2"}, {}, {}], ["0", "1", "2"]),
    ],
)
def test_a_row_is_named_by_a_column_only_where_that_names_every_row(tmp_path, columns, uids):
    task = load_task(files(tmp_path, rows_of(*columns)))
    assert [example.uid for example in task.evaluation] == uids
    assert [example.origin for example in task.evaluation] == [f"{tmp_path}/rows.jsonl, row {i}" for i in range(3)]


@pytest.mark.parametrize("repeated", ["a", None])
def test_an_identity_that_was_asked_for_has_to_be_one(tmp_path, repeated):
    rows = rows_of({"ID": repeated}, {"ID": repeated})
    with pytest.raises(InputError, match=r"dataset\.columns\.uid='ID': .* names two rows \(leave it out to number"):
        load_task(files(tmp_path, rows, columns={"uid": "ID"}))


def test_columns_inside_others_and_their_nulls(tmp_path):
    columns = {"text": ["text", "target.text"]}
    rows = [{"target": {"text": "a"}, "label": 0}, {"target": {"text": None}, "label": 1}]
    task = load_task(files(tmp_path, rows, columns=columns))
    assert [example.fields["text"] for example in task.evaluation] == ["a", None]
    with pytest.raises(InputError, match=r"row 0: no column 'text' or 'target.text'"):
        load_task(files(tmp_path, [{"target": "a", "label": 0}], columns=columns))


def shown(jinja, choices="no ||| yes", **fields):
    return Template("mine", "plain", jinja, choices).render("7", {"label": 0, **fields}, "rows.jsonl, row 7")


NULLS = [
    ("{{x}} ||| {{answer_choices[label]}}", None, "x"),
    ("{{x}} ||| {{answer_choices[label]}}", float("nan"), "x"),
    ("{{x.y}} ||| {{answer_choices[label]}}", {"y": None}, "x.y"),
    ("{{x.y}} ||| {{answer_choices[label]}}", None, "x.y"),
    ("{{x}} ||| {{answer_choices[label]}}", ["a", {"y": None}], "x[1].y"),
    ("{{x[1]}} ||| {{answer_choices[label]}}", ["a", None], "x[1]"),
    ("{{x | join(', ')}} ||| {{answer_choices[label]}}", ["a", None], "x[1]"),
    ("{{x | join(', ')}} ||| {{answer_choices[label]}}", None, "x"),
    ("{{'Text: ' ~ x}} ||| {{answer_choices[label]}}", None, "x"),
    ("{{x | upper}} ||| {{answer_choices[label]}}", None, "x"),
    ("{{x | trim}} ||| {{answer_choices[label]}}", None, "x"),
    ("{{'%s' | format(x)}} ||| {{answer_choices[label]}}", None, "x"),
    ("{{x | default('none')}} ||| {{answer_choices[label]}}", None, "x"),
    ("{% for one in x %}{{one}}{% endfor %} ||| {{answer_choices[label]}}", None, "x"),
    ("{% for one in x %}{{one}}{% endfor %} ||| {{answer_choices[label]}}", [None], "x[0]"),
]


@pytest.mark.parametrize(("jinja", "value", "field"), NULLS)
def test_a_null_that_a_template_shows_is_refused_by_file_row_and_field(jinja, value, field):
    with pytest.raises(RowError) as caught:
        shown(jinja, x=value)
    wrong = f"rows.jsonl, row 7: the field {field!r} is null, and the template shows it"
    assert str(caught.value) == f"dataset 'mine', template 'plain', {wrong}{HINT}"


def test_a_null_choice_is_refused_and_so_are_bytes():
    with pytest.raises(RowError, match=r"the field 'options\[1\]' is null"):
        shown("a ||| {{answer_choices[label]}}", "{{options | join('|||')}}", options=["a", None])
    with pytest.raises(RowError, match="the field 'x' is bytes, no text"):
        shown("{{x}} ||| {{answer_choices[label]}}", x=b"abc")


@pytest.mark.parametrize(
    "jinja",
    [
        "q {{x or 'nothing'}}",
        "q {{x | default('nothing', true)}}",
        "q {% if x %}{{x}}{% else %}nothing{% endif %}",
        "q {% if x is none %}nothing{% else %}{{x}}{% endif %}",
        "q {{ 'nothing' if x == none else x }}",
        "q {% if x != none %}{{x}}{% else %}nothing{% endif %}",
        "q {% if x in [none, ''] %}nothing{% endif %}",
    ],
)
def test_a_null_may_steer_a_template(jinja):
    assert shown(f"{jinja} ||| {{{{answer_choices[label]}}}}", x=None).input == "q nothing"
    assert shown(f"{jinja} ||| {{{{answer_choices[label]}}}}", x=float("nan")).input == "q nothing"


def test_empty_text_stays_empty_and_nulls_that_nothing_shows_are_fine(tmp_path):
    rows = [{"text": "", "note": None, "label": 0}, {"text": "b", "note": {"x": [None]}, "label": 1}]
    task = load_task(files(tmp_path, rows, jinja=f"Text: {ASKS}"))
    assert [prompt.input for prompt in evaluation_prompts(task, "plain")] == ["Text:", "Text: b"]


def test_what_says_nothing_replaces_numbers_and_nested_texts_too():
    """Where a template counts or compares with a field, that steers it and stays."""
    fields = {"price": 41.7, "code": 52, "names": ["ann", {"of": "bob"}], "n": 1, "on": True, "gone": None, "k": 3}
    jinja = (
        "{{price}} {{code}} {{names[n]['of']}} {{names[0]}} {{k - 1}} {{'old' if code2 > 5 else 'new'}} "
        "{{ 'on' if on }}{{gone or ''}} {{'a' + name}} ||| {{answer_choices[label]}}"
    )
    template = Template("mine", "plain", jinja, "no ||| yes")
    row = types.SimpleNamespace(uid="0", fields={**fields, "code2": 7, "name": "eve", "label": 0}, origin="row 0")
    assert _emptied(template, [row], "N/A") == "N/A N/A N/A N/A 2 old on aN/A"


def test_numbers_are_read_where_they_are_asked_for(tmp_path):
    (tmp_path / "e.csv").write_text("text,n,x,label\n007,2,1e1,0\n1.50,1,0.5,1\n")
    templates = {
        "t": {"jinja": "{{text}} {{n + 1}} {{x * 2}} ||| {{answer_choices[label]}}", "answer_choices": "no ||| yes"}
    }
    config = DatasetConfig("mine", "files", evaluation=f"{tmp_path}/e.csv", shots=1, templates=templates)
    with pytest.raises(InputError, match=r"e\.csv, row 0: cannot render: .*reads label: int, n: str"):
        evaluation_prompts(load_task(config), "t")
    config.numbers = ["n", "x"]
    assert [prompt.input for prompt in evaluation_prompts(load_task(config), "t")] == ["007 3 20.0", "1.50 2 1.0"]
    config.numbers = ["text", "z"]
    with pytest.raises(InputError, match=r"row 0: dataset\.numbers: no field 'z'"):
        load_task(config)


@pytest.mark.parametrize("value", ["", "1,5", "one", "nan", "inf", "1e999", True, [1], "0x1", "1_0", "²"])
def test_what_is_no_number_is_refused(tmp_path, value):
    rows = [{"text": "a", "n": 1, "label": 0}, {"text": "b", "n": value, "label": 1}]
    with pytest.raises(RowError, match=r"row 1: dataset\.numbers: 'n' is .*, which is no number"):
        load_task(files(tmp_path, rows, numbers=["n"]))


GOOD = [{"text": f"t{i}", "options": ["a", "b", "c"], "label": ("bad", "good")[i % 2]} for i in range(6)]
BAD = {
    "label 'so-so': expected bad, good": {**GOOD[0], "label": "so-so"},
    "label null: expected bad, good": {**GOOD[0], "label": None},
    "template 'plain': the field 'text' is null, and the template shows it": {**GOOD[0], "text": None},
    "template 'plain': the rendered input is empty": {**GOOD[0], "text": " "},
    "template 'plain': the choices repeat: ['a', 'b', 'a']": {**GOOD[0], "options": ["a", "b", "a"]},
    "template 'plain': needs at least two non-empty choices, found ['a']": {**GOOD[0], "options": ["a"]},
    "template 'plain': label 1 is outside the 1 choices": {**GOOD[1], "options": ["a"]},
    "no column 'label' (columns: text, options)": {"text": "x", "options": ["a", "b"]},
    "expected an object, found 3": 3,
}
CHOICES = {"choices": "{{ options | join('|||') }}", "labels": {"bad": 0, "good": 1}}


@pytest.mark.parametrize("reason", BAD)
def test_bad_rows_are_left_out_counted_and_named_if_that_is_asked_for(tmp_path, reason):
    rows = [*GOOD[:3], BAD[reason], *GOOD[3:]]
    config = files(tmp_path, rows, **CHOICES)
    with pytest.raises(InputError) as caught:
        evaluation_prompts(load_task(config), "plain")
    place = "line 4" if BAD[reason] == 3 else "row 3"
    said = reason.removeprefix("template 'plain': ")
    assert f"rows.jsonl, {place}: {said}" in str(caught.value)
    assert str(caught.value).endswith(HINT) == ("no column" not in reason)

    config.skip_bad_rows = True
    task = load_task(config)
    assert task.skipped == (f"{tmp_path}/rows.jsonl, {place}: {reason}",)
    assert [example.uid for example in task.evaluation] == ["0", "1", "2", "4", "5", "6"]
    assert [prompt.input for prompt in evaluation_prompts(task, "plain")] == [row["text"] for row in GOOD]


def test_bad_rows_are_left_out_of_training_rows_and_draws_too(tmp_path):
    bad = list(BAD.values())
    config = files(tmp_path, [*GOOD, bad[0]], **CHOICES, skip_bad_rows=True)
    config.train = write(tmp_path / "train.jsonl", [bad[2], *GOOD, bad[4]])
    task = load_task(config)
    assert [line.split("/")[-1].split(":")[0] for line in task.skipped] == [
        "train.jsonl, row 0", "train.jsonl, row 7", "rows.jsonl, row 6",
    ]  # fmt: skip
    assert {example.fields["text"] for example in draw(task, 0, 6).examples} == {row["text"] for row in GOOD}
    write(tmp_path / "0.jsonl", [GOOD[0], bad[1], GOOD[1]])
    config.draws = f"{tmp_path}/{{seed}}.jsonl"
    task = load_task(config)
    assert [example.fields["text"] for example in draw(task, 0, 2).examples] == ["t0", "t1"]
    assert len(task.skipped) == 4


def test_a_file_of_bad_rows_alone_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"rows\.jsonl: every row is bad; the first: .*rows\.jsonl, row 0: label null"):
        load_task(files(tmp_path, [{**GOOD[0], "label": None}] * 3, **CHOICES, skip_bad_rows=True))


def test_a_row_that_no_template_is_meant_for_is_a_bad_one(tmp_path):
    rows = [{"text": "a", "label": 0}, {"text": "b", "label": 1}]
    only_a = f"{{% if text == 'a' %}}{ASKS}{{% endif %}}"
    task = load_task(files(tmp_path, rows, jinja=only_a, skip_bad_rows=True))
    assert task.skipped == (f"{tmp_path}/rows.jsonl, row 1: no template is meant for this row",)


def test_a_wrong_setting_is_no_bad_row(tmp_path):
    with pytest.raises(InputError, match="syntax error"):
        load_task(files(tmp_path, GOOD, jinja="{{text ||| x", skip_bad_rows=True))
    with pytest.raises(InputError, match="expected one of ag_news, hellaswag"):
        load_task(files(tmp_path, GOOD, **CHOICES, operations=["polish"], skip_bad_rows=True))


def prepared(*arguments: str):
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    from experiments.commandline import CONF, program_arguments

    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = resolve(compose("config", program_arguments([*arguments, "seeds=[0]", "method=ia3"])))
    assert isinstance(config, Config)
    return prepare_cell(config)


def test_a_run_is_known_by_the_rows_it_used_and_not_by_how_they_came(tmp_path):
    """Leaving out bad rows is the same question as a file without them; nothing to leave out changes nothing."""
    clean = write(tmp_path / "clean.jsonl", GOOD)
    dirty = write(tmp_path / "dirty.jsonl", [*GOOD, {**GOOD[0], "label": "so-so"}])
    asked = (f"dataset.train={clean}", "shots=2", "dataset.labels={bad: 0, good: 1}")
    first = prepared("dataset=files", f"dataset.evaluation={clean}", *asked)
    second = prepared("dataset=files", f"dataset.evaluation={dirty}", *asked, "dataset.skip_bad_rows=true")
    fewer = prepared("dataset=files", f"dataset.evaluation={clean}", *asked, "limit=5")
    assert first.run_ids == second.run_ids != fewer.run_ids
    assert len(second.task.skipped) == 1
    micro = "dataset=micro_rte"
    assert prepared(micro).run_ids == prepared(micro, "dataset.skip_bad_rows=true").run_ids


def test_the_embedded_worlds_rows_are_what_they_were():
    """Records of the embedded world are found again only as long as its rows hash to the same."""
    task = load_task(DatasetConfig("micro_rte", "microworld"))
    assert fingerprint(task.train).startswith("309f8aea8a604840")
    assert fingerprint(task.evaluation).startswith("191fd42b9c51e8d2")


def test_numbers_of_the_hub_become_the_names_it_has_for_them(tmp_path, monkeypatch):
    """Names are safe, numbers are not: one that has another name is not looked up as a number."""
    names = ["Unlabeled", "bad", "good"]

    class Split(list):
        pass

    split = Split({"text": f"t{i}", "label": number} for i, number in enumerate((1, 2, 2)))
    split.features = {"label": types.SimpleNamespace(names=names), "text": types.SimpleNamespace()}
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=lambda *_, **__: split))
    config = files(tmp_path, GOOD, labels={"bad": 0, "good": 1, "0": 0, "1": 1})
    config.source, config.path, config.train, config.evaluation = "hub", "some/set", "train", "test"
    assert [example.label for example in load_task(config).evaluation] == [0, 1, 1]
    config.labels = {"1": 0, "2": 1}  # the numbers themselves
    assert [example.label for example in load_task(config).evaluation] == [0, 1, 1]
    config.labels = {"bad": 0, "good": 1, "0": 0, "1": 1}
    for number, shown_as in ((0, "'Unlabeled'"), (-1, "-1"), (None, "null")):
        split[:] = [{"text": "t", "label": number}]
        with pytest.raises(InputError, match=f"some/set:train, row 0: label {shown_as}: expected bad, good"):
            load_task(config)
