"""Files become tasks, and every way they can be wrong is one clear line."""

import json
import sys
import types

import numpy as np
import pandas as pd
import pytest

from adaptbench.data.fewshot import draw
from adaptbench.data.sources import load_task
from adaptbench.errors import InputError
from adaptbench.schema import DatasetConfig

TEMPLATES = {"plain": {"jinja": "{{text}} ||| {{answer_choices[label]}}", "answer_choices": "no ||| yes"}}
ROWS = [{"text": f"row {i}", "label": i % 2} for i in range(12)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def config(tmp_path, **changes):
    train = write(tmp_path / "train.jsonl", ROWS)
    evaluation = write(tmp_path / "eval.jsonl", ROWS[:5])
    known = {
        "name": "mine",
        "source": "files",
        "train": train,
        "evaluation": evaluation,
        "shots": 4,
        "templates": TEMPLATES,
    }
    return DatasetConfig(**{**known, **changes})


def test_jsonl_csv_tsv_and_parquet_give_the_same_task(tmp_path):
    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    frame.to_csv(tmp_path / "rows.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "rows.parquet")
    expected = [(e.uid, dict(e.fields)) for e in load_task(config(tmp_path)).train]
    for name in ("rows.csv", "rows.tsv", "rows.parquet"):
        task = load_task(config(tmp_path, train=str(tmp_path / name)))
        assert [(e.uid, dict(e.fields)) for e in task.train] == expected


def test_columns_and_labels_are_mapped(tmp_path):
    rows = [{"sentence": "a", "gold": "neg"}, {"sentence": "b", "gold": "pos"}]
    path = write(tmp_path / "other.jsonl", rows)
    mapping = {"columns": {"text": "sentence", "label": "gold"}, "labels": {"neg": 0, "pos": 1}}
    task = load_task(config(tmp_path, evaluation=path, train=path, **mapping))
    assert [(e.fields["text"], e.label) for e in task.evaluation] == [("a", 0), ("b", 1)]


def bad_json(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a", "label": 0}\n{"text": \n', encoding="utf-8")
    return {"evaluation": str(path)}, "line 2: not JSON"


def not_an_object(tmp_path):
    path = tmp_path / "list.jsonl"
    path.write_text("[1, 2]\n", encoding="utf-8")
    return {"evaluation": str(path)}, "line 1: expected an object"


def not_utf8(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "caf\xe9", "label": 0}\n'.encode("latin-1"))
    return {"evaluation": str(path)}, "not UTF-8"


def missing_file(tmp_path):
    return {"evaluation": str(tmp_path / "nowhere.jsonl")}, "no such file"


def missing_column(tmp_path):
    return {"columns": {"text": "sentence"}}, "no column 'sentence'"


def missing_label(tmp_path):
    return {"evaluation": write(tmp_path / "unlabelled.jsonl", [{"text": "a"}])}, "no column 'label'"


def unknown_label(tmp_path):
    rows = [{"text": "a", "label": "perhaps"}]
    given = {"evaluation": write(tmp_path / "odd.jsonl", rows), "labels": {"yes": 1}, "train": None}
    return given, "odd.jsonl, row 0: label 'perhaps': expected yes"


def boolean_label(tmp_path):
    return {"evaluation": write(tmp_path / "bool.jsonl", [{"text": "a", "label": True}])}, "expected an integer"


def empty_file(tmp_path):
    return {"evaluation": write(tmp_path / "empty.jsonl", [])}, "has no rows"


def empty_csv(tmp_path):
    (tmp_path / "empty.csv").write_text("")
    return {"evaluation": str(tmp_path / "empty.csv")}, "is empty: expected a header"


def unknown_suffix(tmp_path):
    (tmp_path / "rows.xls").write_text("x")
    return {"evaluation": str(tmp_path / "rows.xls")}, "expected .jsonl"


def no_evaluation(tmp_path):
    return {"evaluation": None}, "'evaluation' must name a file"


def no_templates(tmp_path):
    return {"templates": {}}, "no templates"


def no_shots(tmp_path):
    return {"shots": None}, "'shots' must be given"


def unknown_source(tmp_path):
    return {"source": "ftp"}, "expected one of microworld, files, shipped, parallel, hub"


def unknown_micro_task(tmp_path):
    return {"source": "microworld", "name": "micro_nothing"}, "not a task of the embedded world"


def no_draws(tmp_path):
    return {"draws": str(tmp_path / "{seed}_seed.jsonl")}, "no few-shot draw matches"


@pytest.mark.parametrize(
    "case",
    [
        bad_json, not_an_object, not_utf8, missing_file, missing_column, missing_label, unknown_label,
        boolean_label, empty_file, empty_csv, unknown_suffix, no_evaluation, no_templates, no_shots,
        unknown_source, unknown_micro_task, no_draws,
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line_naming_the_dataset(tmp_path, case):
    changes, says = case(tmp_path)
    with pytest.raises(InputError) as caught:
        load_task(config(tmp_path, **changes))
    message = str(caught.value)
    assert says in message
    assert "dataset" in message
    assert "\n" not in message


def test_a_draw_is_the_first_rows_of_numpys_legacy_shuffle(tmp_path):
    task = load_task(config(tmp_path))
    rows = list(range(12))
    np.random.seed(42)
    np.random.shuffle(rows)
    assert [int(e.uid) for e in draw(task, 42).examples] == rows[:4]
    assert draw(task, 42).sha256 == draw(task, 42).sha256 != draw(task, 43).sha256


@pytest.mark.parametrize(("shots", "says"), [(0, "at least 1"), (13, "only 12 training rows")])
def test_shots_must_be_possible(tmp_path, shots, says):
    with pytest.raises(InputError, match=says):
        draw(load_task(config(tmp_path)), 0, shots)


def test_draws_given_as_files_are_the_few_shot_sets(tmp_path):
    for seed in (0, 7):
        write(tmp_path / f"{seed}_seed.jsonl", ROWS[seed : seed + 4])
    task = load_task(config(tmp_path, draws=str(tmp_path / "{seed}_seed.jsonl")))
    assert [e.fields["text"] for e in draw(task, 7).examples] == ["row 7", "row 8", "row 9", "row 10"]
    with pytest.raises(InputError, match="no few-shot draw for seed 1; it has 0, 7"):
        draw(task, 1)


def test_stratified_sampling_takes_equally_many_of_each_label(tmp_path):
    rows = [{"text": f"row {i}", "label": int(i % 6 == 0)} for i in range(60)]  # one in six
    path = write(tmp_path / "uneven.jsonl", rows)
    task = load_task(config(tmp_path, train=path, sampling="stratified"))
    for shots, counts in ((8, (4, 4)), (7, (4, 3))):
        labels = [example.label for example in draw(task, 42, shots).examples]
        assert (labels.count(0), labels.count(1)) == counts
    natural = load_task(config(tmp_path, train=path))
    order = [example.uid for example in draw(natural, 42, 60).examples]
    chosen = {example.uid for example in draw(task, 42, 8).examples}
    first = [[uid for uid in order if (int(uid) % 6 == 0) == rare][:4] for rare in (False, True)]
    assert chosen == {*first[0], *first[1]}  # the same shuffle decides
    with pytest.raises(InputError, match="only 10 rows of label 1"):
        draw(task, 42, 24)


def test_a_rare_label_does_not_come_last_in_a_stratified_draw(tmp_path):
    """As it would in the order of the search: nearest to the prompt, where demonstrations weigh most."""
    rows = [{"text": f"row {i}", "label": int(i % 20 == 0)} for i in range(600)]
    task = load_task(config(tmp_path, train=write(tmp_path / "rare.jsonl", rows), sampling="stratified"))
    draws = [[example.label for example in draw(task, seed, 16).examples] for seed in range(200)]
    shares = np.mean(draws, axis=0)
    assert all(sum(labels) == 8 for labels in draws)
    assert np.abs(shares - 0.5).max() < 0.18  # of the rare label at every position: five standard errors


def test_ready_made_draws_keep_their_order(tmp_path):
    rows = [*ROWS[1::2], *ROWS[::2]]
    write(tmp_path / "0_seed.jsonl", rows)
    task = load_task(config(tmp_path, draws=str(tmp_path / "{seed}_seed.jsonl"), sampling="stratified"))
    assert [example.fields["text"] for example in draw(task, 0, 12).examples] == [row["text"] for row in rows]


HUB = {"source": "hub", "path": "some/set", "subset": "plain", "train": "train", "evaluation": "validation"}


def test_hub_splits_become_a_task(tmp_path, monkeypatch):
    asked = []

    def load_dataset(path, subset, split, **_):
        asked.append((path, subset, split))
        return ROWS if split == "train" else ROWS[:5]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    task = load_task(config(tmp_path, **HUB))
    assert asked == [("some/set", "plain", "train"), ("some/set", "plain", "validation")]
    assert (len(task.train), len(task.evaluation)) == (12, 5)


def test_no_hub_and_no_package_are_one_clear_line_each(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InputError, match=r"pip install 'adaptbench\[hub\]'"):
        load_task(config(tmp_path, **HUB))

    def load_dataset(*_, **__):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match=r"cannot load 'some/set'.*no route to host"):
        load_task(config(tmp_path, **HUB))
