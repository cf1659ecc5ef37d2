"""Real few-shot files, real P3 templates, official validation sets, and a model folder with a BPE tokenizer."""

import json
from pathlib import Path

import pandas as pd
import pytest

from adaptbench.record import KEYS
from experiments.submit import submit
from tests.conftest import bpe_tokenizer, tiny_model
from tests.end_to_end.test_runs import records

SIZES = {"rte": 277, "cb": 56}


@pytest.fixture(scope="module")
def folder(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random T5 whose tokenizer is trained on the rows it will read."""
    texts = []
    for name in SIZES:
        for line in (real_data / f"superglue/{name}/val.jsonl").open(encoding="utf-8"):
            row = json.loads(line)
            texts += [row["premise"], row["hypothesis"]]
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = bpe_tokenizer(texts, end_of_sequence=True)
    tokenizer.save_pretrained(folder)
    tiny_model("t5", len(tokenizer)).save_pretrained(folder)
    return folder


def test_the_whole_harness_on_rte_and_cb(call, tmp_path, monkeypatch, real_data, folder):
    monkeypatch.setenv("ADAPTBENCH_DATA", str(real_data))
    sizes = ("recipe.training.ia3.steps=3", "recipe.training.lora.steps=3", "model.max_length=1024")
    assert call("experiment=real_smoke", f"model.path={folder}", "progress=false", *sizes) == 0
    found = list(records(tmp_path / "outputs/real_smoke").values())
    cells = {(record["dataset"], record["method"], record["seed"]) for record in found}
    methods = ("zero_shot", "ia3", "lora", "icl")
    assert cells == {(dataset, method, seed) for dataset in SIZES for method in methods for seed in (0, 1)}
    for record in found:
        assert record["n_eval"] == SIZES[record["dataset"]]
        assert record["flops.predict.measured"] > 0
        assert set(KEYS) <= record.keys()
        if record["method"] == "icl":  # random BPE splits text into many tokens: whole demonstrations are dropped
            assert 0 < record["provenance.demonstrations"] < 32
        if record["method"] in ("ia3", "lora"):
            assert record["shots"] == 32
            assert record["flops.adapt.measured"] > 0
    by_cell = {(record["dataset"], record["method"], record["seed"]): record for record in found}
    for dataset in SIZES:
        zero, ia3 = by_cell[dataset, "zero_shot", 0], by_cell[dataset, "ia3", 0]
        ratio = ia3["flops.predict.measured"] / zero["flops.predict.measured"]
        assert ratio == pytest.approx(1.0), "(IA)^3 adds no matrix product"


DATASETS = {"copa", "hellaswag", "winogrande", "wsc", "wic", "rte", "cb", "anli_r1", "anli_r2", "anli_r3"}


def test_ten_of_the_papers_eleven_in_one_experiment(call, tmp_path, monkeypatch, real_data, folder):
    """real_all with fewer methods and rows than it declares: every data set is trained on and evaluated."""
    monkeypatch.setenv("ADAPTBENCH_DATA", str(real_data))
    few = ("limit=2", "method=ia3,icl", "recipe.training.ia3.steps=1", "shots=4", "progress=false")
    model = ("model=local", f"model.path={folder}", "model.max_length=2048")
    assert call("experiment=real_all", *few, *model) == 0
    found = list(records(tmp_path / "outputs/real_all").values())
    assert {(record["dataset"], record["method"]) for record in found} == {
        (name, m) for name in DATASETS for m in ("ia3", "icl")
    }
    assert {record["shots"] for record in found} == {4}
    assert not (tmp_path / "outputs/real_all/failures").exists()


def test_raft_leaves_files_for_the_leaderboard(call, tmp_path, monkeypatch, real_data, folder, capsys):
    monkeypatch.setenv("ADAPTBENCH_DATA", str(real_data))
    raft = "raft_banking_77,raft_one_stop_english,raft_overruling"
    few = ("limit=3", "recipe.training.ia3.steps=1", "recipe.batch_size=2", f"dataset={raft}", "method=zero_shot,ia3")
    assert call("experiment=raft", *few, "model=local", f"model.path={folder}", "progress=false") == 0
    found = list(records(tmp_path / "outputs/raft").values())
    assert {(record["score"], record["n_eval"]) for record in found} == {(None, 3)}
    banking = next(record for record in found if record["dataset"] == "raft_banking_77" and record["method"] == "ia3")
    assert banking["provenance.config"]["recipe"]["losses"] == ["lm", "length_normalized"]
    lacks = submit(tmp_path / "outputs/raft")
    assert {path.name for path in lacks} == {"zero_shot-local-42", "ia3-local-42"}
    assert all(len(missing) == 8 + 3 for missing in lacks.values())
    for path in (tmp_path / "outputs/raft/submissions").rglob("predictions.csv"):
        table = pd.read_csv(path)
        assert list(table) == ["ID", "Label"]
        assert list(table.ID) == [50, 51, 52]
        known = json.loads((real_data / f"raft/{path.parent.name}/task.json").read_text())["label_columns"]["Label"]
        assert set(table.Label) <= set(known)


PAPERS = [f"{name}_t0_{size}" for size in ("3b", "11b")
          for name in ("table1", "fig2", "fig3", "table3", "table8", "table10", "raft")]  # fmt: skip


@pytest.mark.parametrize("experiment", PAPERS)
def test_the_papers_experiments_are_complete(call, tmp_path, monkeypatch, real_data, capsys, experiment):
    """Every cell of every table and figure composes, finds its data, renders its prompts and has a price."""
    monkeypatch.setenv("ADAPTBENCH_DATA", str(real_data))
    shape = [f"model.shape.{key}=1" for key in ("num_layers", "num_decoder_layers")]
    if experiment.startswith("fig2"):  # SAID's 500,000 dimensions need more layers, and all fifteen methods minutes
        shape.append("method=lora_tfew,bitfit_tfew,prompt_10")
    some = "dataset=raft_banking_77" if experiment.startswith("raft") else "dataset=copa"
    assert call(f"experiment={experiment}", some, "limit=2", "shots=4", "seeds=[0]", "dry_run=true", *shape) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    methods = [line.split()[0] for line in lines[1:] if line.split()[1:2] in (["t0_3b"], ["t0_11b"], ["t5_lm_xxl"])]
    assert len(methods) > 1
    if not experiment.startswith(("fig2", "table3")):
        assert "t_few" in methods
        assert "To get first: method.pretrained=" in lines[-1]


def test_a_dry_run_prices_every_cell_and_runs_none(call, tmp_path, monkeypatch, real_data, capsys):
    monkeypatch.setenv("ADAPTBENCH_DATA", str(real_data))

    def forbidden(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("adaptbench.tasks.base.TaskType.load", forbidden)
    few = ("dataset=copa,cb", "limit=8", "progress=false", "+dry_run=true")
    shape = [f"model.shape.{key}=2" for key in ("num_layers", "num_decoder_layers")]
    assert call("experiment=table1_t0_3b", *few, *shape) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [tuple(line.split()[:4]) for line in lines[1:7]] == [
        (method, "t0_3b", dataset, "5") for method in ("zero_shot", "t_few", "ia3") for dataset in ("copa", "cb")
    ]
    assert lines[7].startswith("6 cells, 30 runs: ")
    assert "GPU-hours at 100 teraFLOP/s" in lines[7]
    assert "the tokenizer is not at hand" in lines[8]
    adapt = {tuple(line.split()[:3:2]): float(line.split()[4]) for line in lines[1:7]}
    assert adapt["zero_shot", "cb"] == 0 < adapt["ia3", "copa"] < adapt["ia3", "cb"]
    assert not list(tmp_path.rglob("*.json"))
