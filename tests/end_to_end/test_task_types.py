"""Every kind of task through the real program: trained, answered, scored by all its metrics, billed and recorded."""

import json
import sys
from pathlib import Path

import pandas as pd
import pytest

from adaptbench.data.readers import read_rows
from adaptbench.methods.tensor_files import read_tensors
from analysis import report
from experiments import cost, run
from tests.models.bare import bert_tokenizer, tiny_model

WORDS = ("cat", "dog", "mat", "house")
COMMON = ["recipe=ten_steps", "recipe.batch_size=4", "seeds=[0,1]", "dataset.shots=12", "progress=false"]


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = bert_tokenizer()
    tokenizer.save_pretrained(folder)
    tiny_model("bert", len(tokenizer)).save_pretrained(folder)
    return folder


def rows_file(folder: Path, rows: list[dict]) -> str:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def dataset(folder: Path, task: str, rows: list[dict], **more: str) -> list[str]:
    """Overrides that name a data set of these rows, which is trained and evaluated on."""
    file = rows_file(folder, rows)
    own = [f"dataset=files_{task}", f"dataset.train={file}", f"dataset.evaluation={file}"]
    return own + [f"dataset.{key}={value}" for key, value in more.items()]


def ran(monkeypatch, *overrides: str) -> None:
    monkeypatch.setattr(sys, "argv", ["run", *COMMON, *overrides])
    run.main()


def records(output: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted((output / "records").glob("*.json"))]


def stored(output: Path, record: dict) -> int:
    return sum(file.stat().st_size for file in (output / "adapters" / record["run_id"]).iterdir())


CLASSES = [{"text": f"the {WORDS[i % 4]} sat", "label": ("yes" if i % 2 else "no")} for i in range(24)]


def test_classification_by_a_head(bert, tmp_path, monkeypatch):
    data = dataset(tmp_path, "classification", CLASSES, labels="{no: 0, yes: 1}")
    output = tmp_path / "out"
    for method in ("lora", "bitfit", "adapter", "prefix", "prompt_10", "full_ft"):
        ran(monkeypatch, *data, f"model.path={bert}", f"method={method}", f"output={output}")
    found = records(output)
    assert len(found) == 12
    for record in found:
        assert record["task"] == "classification"
        assert record["metric"] == "accuracy"
        assert {"scores.accuracy", "scores.f1", "scores.f1_macro", "scores.matthews"} <= record.keys()
        assert record["chance"] == 0.5
        head = 32 * 32 + 32 + 32 * 2 + 2
        assert record["params.trainable"] - record["params.stored"] == head
        assert record["flops.adapt.measured"] > 0 < record["flops.predict.measured"]
        assert record["storage.bytes"] == stored(output, record)
        files = {file.name for file in (output / "adapters" / record["run_id"]).iterdir()}
        assert "head.safetensors" in files
    output = tmp_path / "probe"
    ran(monkeypatch, *data, f"model.path={bert}", "method=linear_probe", f"output={output}")
    for record in records(output):
        assert record["params.trained"] == record["params.stored"] == record["params.served"] == 0
        assert record["params.head"] == record["params.trainable"] == 32 * 2 + 2
        assert record["storage.bytes"] == stored(output, record)
    full = next(record for record in found if record["method"] == "full_ft")
    assert full["params.stored"] == full["params.total"]
    output = tmp_path / "out"
    head = read_tensors(output / "adapters" / found[0]["run_id"] / "head.safetensors")
    assert sum(tensor.numel() for tensor in head.values()) == 32 * 32 + 32 + 32 * 2 + 2
    predictions = pd.read_parquet(output / "predictions" / f"{found[0]['run_id']}.parquet")
    assert (predictions.prediction == predictions.reference).mean() == pytest.approx(found[0]["score"])
    assert report.main([str(output)]) == 0


def test_a_pair_and_a_number(bert, tmp_path, monkeypatch):
    rows = [{"a": f"the {WORDS[i % 4]}", "b": "a dog ran", "similar": i % 4} for i in range(24)]
    templates = ["dataset.templates.plain.text='{{a}}'", "dataset.templates.plain.pair='{{b}}'"]
    own = {"regression": "true", "columns": "{label: similar}", "metric": "spearman"}
    data = [*dataset(tmp_path, "classification", rows, **own), *templates]
    output = tmp_path / "out"
    ran(monkeypatch, *data, f"model.path={bert}", "method=lora", f"output={output}")
    for record in records(output):
        assert record["metric"] == "spearman"
        assert -1 <= record["scores.pearson"] <= 1
        assert record["score"] == record["scores.spearman"]
        assert record["chance"] is None
    assert report.main([str(output)]) == 0


def test_generation_trains_and_decodes(model_folders, tmp_path, monkeypatch):
    rows = [{"text": f"the {WORDS[i % 4]} sat", "references": [f"{WORDS[i % 4]}", "a"]} for i in range(16)]
    data = dataset(tmp_path, "generation", rows, **{"decoding.max_new_tokens": "6"})
    for architecture in ("t5", "llama"):
        output = tmp_path / architecture
        for method in ("ia3", "zero_shot", "icl", *(["icl_cached"] if architecture == "llama" else [])):
            model = [f"model.path={model_folders[architecture]}", "model.max_length=600"]
            ran(monkeypatch, *data, *model, f"method={method}", f"output={output}", "dataset.shots=3")
        found = records(output)
        assert len(found) == (8 if architecture == "llama" else 6)
        for record in found:
            assert record["metric"] == "exact_match"
            assert {"scores.token_f1", "scores.bleu", "scores.chrf"} <= record.keys()
            assert set(record["provenance.signatures"]) == {"bleu", "chrf"}
            assert record["flops.predict.measured"] > 0
            predictions = pd.read_parquet(output / "predictions" / f"{record['run_id']}.parquet")
            assert predictions.tokens.between(1, 6).all()
        assert report.main([str(output)]) == 0


def squad(count: int) -> dict:
    """A file in SQuAD's own layout, with contexts of several windows."""
    paragraphs = []
    for i in range(count):
        filler = "the small mat was red and the large house is blue . " * 3
        context = f"{filler}a {WORDS[i % 4]} ran to the house . {filler}"
        start = context.index(f"{WORDS[i % 4]} ran")
        answer = {"text": WORDS[i % 4], "answer_start": start}
        question = {"id": f"q{i}", "question": "a cat or a dog ran ?", "answers": [answer]}
        paragraphs.append({"context": context, "qas": [question]})
    return {"data": [{"title": "t", "paragraphs": paragraphs}]}


def test_spans_of_a_squad_file(bert, tmp_path, monkeypatch):
    data = dataset(tmp_path, "spans", [], stride="8")
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(squad(12)))
    assert len(list(read_rows(file, "squad"))) == 12
    files = [f"dataset.train={file}", f"dataset.evaluation={file}"]
    output = tmp_path / "out"
    for method in ("lora", "prompt_10", "full_ft"):
        ran(monkeypatch, *data, *files, f"model.path={bert}", f"method={method}", f"output={output}")
    for record in records(output):
        assert record["metric"] == "token_f1"
        assert 0 <= record["scores.exact_match"] <= record["scores.token_f1"] <= 1
        predictions = pd.read_parquet(output / "predictions" / f"{record['run_id']}.parquet")
        assert (predictions.windows > 1).all()
    assert report.main([str(output)]) == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["method=icl"], "answered by a head that has to be trained"),
        (["method=zero_shot"], "answered by a head that has to be trained"),
        (["method=lora", "dataset.metric=bleu"], "dataset.metric='bleu': expected one of accuracy"),
        (["method=lora", "dataset.task=clasification"], "dataset.task='clasification': expected one of choices, class"),
        (["method=lora", "dataset.labels={}"], "needs dataset.labels or dataset.classes of at least two"),
        (["method=lora", "dataset.templates.plain={jinja: x}"], "expected text, or text and pair"),
    ],
)
def test_what_a_task_cannot_be_is_refused_in_one_line(bert, tmp_path, monkeypatch, capsys, overrides, said):
    data = dataset(tmp_path, "classification", CLASSES, labels="{no: 0, yes: 1}")
    with pytest.raises(SystemExit) as stopped:
        ran(monkeypatch, *data, f"model.path={bert}", f"output={tmp_path / 'out'}", *overrides)
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("task", ["classification", "spans", "generation"])
def test_a_dry_run_and_a_bill_of_every_task_type(bert, model_folders, tmp_path, monkeypatch, capsys, task):
    texts = [{"text": f"the {WORDS[i % 4]} sat", "references": ["a cat"]} for i in range(16)]
    data = dataset(tmp_path, task, CLASSES if task == "classification" else texts)
    if task == "classification":
        data.append("dataset.labels={no: 0, yes: 1}")
    if task == "spans":
        (tmp_path / "rows.json").write_text(json.dumps(squad(12)))
        data = [
            f"dataset={data[0].partition('=')[2]}",
            *(f"dataset.{key}={tmp_path}/rows.json" for key in ("train", "evaluation")),
            "dataset.stride=8",
        ]
    model = model_folders["t5"] if task == "generation" else bert
    cell = [*data, f"model.path={model}", "method=lora", "model.name=tiny"]
    ran(monkeypatch, *cell, f"output={tmp_path / 'out'}", "dry_run=true")
    said = capsys.readouterr().out.splitlines()
    line = next(line for line in said if line.startswith("lora")).split()
    assert float(line[4]) > 0 < float(line[5])
    assert not (tmp_path / "out").exists()
    assert any("longest they may be" in line for line in said) == (task == "generation")
    monkeypatch.setattr(sys, "argv", ["cost", *cell, "dataset.shots=12", "format=json"])
    cost.main()
    bill = json.loads(capsys.readouterr().out)
    assert bill["flops.adapt.measured"] > bill["flops.predict.measured"] > 0
    assert bill["storage.bytes"] > 0
