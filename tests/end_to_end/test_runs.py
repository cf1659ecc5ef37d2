"""Cells and sweeps as users run them, on the shipped models: records, resumption, kill -9, identity, tracking."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from adaptbench.metrics.normalisation import LENGTHS
from adaptbench.record import KEYS

SMALL = ("limit=24", "seeds=[0,1]", "recipe.training.ia3.steps=6", "progress=false")
ROOT = Path(__file__).parents[2]


def records(folder: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}


def lasting(record: dict) -> dict:
    """What must be the same whenever and wherever a run is made."""
    return {k: v for k, v in record.items() if not k.startswith(("provenance.", "seconds."))}


def test_one_cell_leaves_records_predictions_and_adapters(call, tmp_path):
    assert call("method=ia3", "dataset=micro_cb", *SMALL) == 0
    folder = tmp_path / "outputs/default"
    found = records(folder)
    assert sorted(record["seed"] for record in found.values()) == [0, 1]
    for run_id, record in found.items():
        assert set(KEYS) <= record.keys()
        assert record["run_id"] == run_id
        assert (record["method"], record["model"], record["dataset"]) == ("ia3", "micro_t0", "micro_cb")
        assert (record["n_eval"], record["shots"], record["provenance.fused_with"]) == (24, 32, [0, 1])
        assert record["chance"] == pytest.approx(1 / 3)
        adapter = folder / "adapters" / run_id
        assert record["storage.bytes"] == sum(file.stat().st_size for file in adapter.iterdir())
        assert record["storage.bytes"] > 4 * record["params.trainable"]
        assert record["flops.adapt.measured"] > 6 * 8 * record["flops.predict.measured"]
        predictions = pd.read_parquet(folder / "predictions" / f"{run_id}.parquet")
        assert len(predictions) == 24 * 3
        assert {"uid", "template", "label", "choice", "log_likelihood", *LENGTHS.values()} <= set(predictions)
        per_token = predictions.log_likelihood / predictions.tokens
        best = predictions.loc[per_token.groupby(predictions.uid, sort=False).idxmax()]
        assert (best.choice == best.label).mean() == record["score"]


def test_a_finished_run_is_never_run_twice(call, tmp_path, monkeypatch):
    assert call("method=ia3", *SMALL) == 0
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").rglob("*.json")}

    def forbidden(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("adaptbench.tasks.base.load", forbidden)
    assert call("method=ia3", *SMALL) == 0
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "outputs").rglob("*.json")}


def test_two_runs_of_the_same_configuration_give_the_same_records(call, tmp_path):
    for name in ("one", "two"):
        assert call("-m", "method=ia3,full_ft", "recipe.training.full_ft.steps=3", *SMALL, f"name={name}") == 0
    first, second = (records(tmp_path / "outputs" / name) for name in ("one", "two"))
    assert first.keys() == second.keys()
    assert len(first) == 4
    for run_id in first:
        assert {**lasting(first[run_id]), "experiment": ""} == {**lasting(second[run_id]), "experiment": ""}
        name = f"predictions/{run_id}.parquet"
        a, b = (pd.read_parquet(tmp_path / "outputs" / folder / name) for folder in ("one", "two"))
        assert a.equals(b)


def test_a_sweep_runs_the_cells_of_its_experiment_only(call, tmp_path):
    assert call("experiment=quick", *SMALL) == 0
    pairs = {(record["model"], record["method"]) for record in records(tmp_path / "outputs/quick").values()}
    assert pairs == {("micro_t0", "zero_shot"), ("micro_t0", "ia3"), ("micro_gpt_l", "icl")}


def test_in_context_learning_pays_in_every_prediction_and_keeps_its_tokens(call, tmp_path):
    assert call("-m", "model=micro_gpt_l", "method=zero_shot,icl", "dataset=micro_rte", *SMALL) == 0
    by_method = {record["method"]: record for record in records(tmp_path / "outputs/default").values()}
    zero, icl = by_method["zero_shot"], by_method["icl"]
    assert (zero["shots"], zero["storage.bytes"], zero["params.trainable"]) == (0, 0, 0)
    assert (icl["shots"], icl["params.trainable"], icl["flops.adapt.measured"]) == (32, 0, 0)
    assert icl["provenance.demonstrations"] == 32
    assert icl["flops.predict.measured"] > 10 * zero["flops.predict.measured"]
    assert icl["memory.kv_cache_bytes"] > 0 == zero["memory.kv_cache_bytes"]
    assert icl["storage.bytes"] > 32 * 4


def test_a_failing_run_is_recorded_and_retried(call, tmp_path, monkeypatch, capsys):
    from adaptbench.methods.ia3 import IA3

    def broken(*_, **__):
        raise RuntimeError("out of memory, say")

    with monkeypatch.context() as patch:
        patch.setattr(IA3, "build", broken)
        assert call("-m", "method=ia3,zero_shot", *SMALL) == 1
    assert "2 run(s) failed" in capsys.readouterr().err
    folder = tmp_path / "outputs/default"
    assert {record["method"] for record in records(folder).values()} == {"zero_shot"}
    failures = [json.loads(path.read_text()) for path in (folder / "failures").glob("*.json")]
    assert [failure["error"] for failure in failures] == ["out of memory, say"] * 2
    assert call("method=ia3", *SMALL) == 0
    assert list((folder / "failures").glob("*.json")) == []
    assert len(records(folder)) == 4


def test_kill_minus_nine_loses_no_finished_run(call, tmp_path):
    """Killed in the middle of a sweep, the next call completes it to the very records of an undisturbed one."""
    arguments = ["-m", "method=zero_shot,ia3", "dataset=micro_rte,micro_cb,micro_copa", "limit=24", "seeds=[0,1]",
                 "recipe.training.ia3.steps=20", "progress=false"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "experiments.run", *arguments, "name=killed"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    folder = tmp_path / "outputs/killed"
    deadline = time.monotonic() + 120
    while len(list(folder.glob("records/*.json"))) < 7 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = records(folder)
    assert 0 < len(before) < 12
    assert call(*arguments, "name=killed") == 0
    assert call(*arguments, "name=undisturbed") == 0
    after, undisturbed = records(folder), records(tmp_path / "outputs/undisturbed")
    assert {run_id: after[run_id] for run_id in before} == before
    assert after.keys() == undisturbed.keys()
    for run_id, record in after.items():
        assert {**lasting(record), "experiment": ""} == {**lasting(undisturbed[run_id]), "experiment": ""}


def test_wandb_gets_one_offline_run_per_record(call, tmp_path, monkeypatch):
    for variable in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(variable)
    assert call("method=zero_shot", "tracking=wandb", *SMALL) == 0
    folders = sorted((tmp_path / "outputs/default/wandb").glob("offline-run-*"))
    ids = {folder.name.rsplit("-", 1)[1] for folder in folders}
    assert ids == set(records(tmp_path / "outputs/default"))


def test_fewer_runs_may_share_a_pass(call, tmp_path):
    assert call("method=ia3", *SMALL, "seeds=[0,1,2]", "max_fused=2", "limit=4") == 0
    fused = sorted(record["provenance.fused_with"] for record in records(tmp_path / "outputs/default").values())
    assert fused == [[0, 1], [0, 1], [2]]


@pytest.mark.parametrize("method", ["ia3", "lora", "adapter", "prefix", "bitfit", "full_ft"])
def test_a_bfloat16_base_trains_a_float32_delta(call, tmp_path, method):
    """Deltas and optimizer statistics stay in float32 over a half-precision base."""
    steps = f"recipe.training.{method}.steps=4"
    assert call(f"method={method}", "model.dtype=bfloat16", steps, *SMALL, "limit=8", "seeds=[0]") == 0
    ((run_id, record),) = records(tmp_path / "outputs/default").items()
    assert record["provenance.dtype"] == "bfloat16"
    (file,) = (tmp_path / "outputs/default/adapters" / run_id).glob("*.safetensors")
    dtypes = {tensor.dtype for tensor in load_file(file).values()}
    assert dtypes == {torch.bfloat16 if method == "full_ft" else torch.float32}
