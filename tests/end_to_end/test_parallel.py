"""Cells in several processes leave what they leave one after the other."""

import subprocess
import sys
import threading

from adaptbench.launch import sweep, workers
from tests.end_to_end.test_runs import SMALL, lasting, records

SWEEP = ("-m", "method=ia3,zero_shot,icl", "dataset=micro_cb,micro_rte", *SMALL)


def test_two_workers_leave_the_records_of_one(call, tmp_path):
    assert call(*SWEEP, "name=one") == 0
    assert call(*SWEEP, "name=two", "hydra.launcher.workers=2") == 0
    alone, parallel = (records(tmp_path / "outputs" / name) for name in ("one", "two"))
    assert len(alone) == 12
    assert alone.keys() == parallel.keys()
    for run_id in alone:
        assert {**lasting(alone[run_id]), "experiment": ""} == {**lasting(parallel[run_id]), "experiment": ""}


def test_workers_share_the_threads_unless_the_environment_says(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    assert [workers.threads(count) for count in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert workers.threads(2) == 8, "what PyTorch has made of it"


def test_a_worker_computes_with_its_own_number_of_threads():
    """In a process of its own, as workers are: the number holds for all of a process."""
    begin = "import os, torch; from adaptbench.launch.workers import _begin; _begin(os.getppid(), 3)"
    shown = subprocess.run([sys.executable, "-c", f"{begin}; print(torch.get_num_threads())"], capture_output=True)
    assert shown.stdout.split() == [b"3"], shown.stderr


def test_what_goes_wrong_in_a_worker_is_counted_and_the_others_go_on(call, tmp_path, capsys):
    code = call("-m", "method=ia3", "method.learning_rate=1e-2,1e30", *SMALL, "hydra.launcher.workers=2")
    assert code == 1
    assert "2 run(s) failed" in capsys.readouterr().err
    assert len(records(tmp_path / "outputs/default")) == 2


def test_a_dry_run_in_workers_prices_every_cell(call, tmp_path, capsys):
    sweep = ("-m", "method=ia3,zero_shot", "dataset=micro_cb", "limit=4")
    assert call(*sweep, "dry_run=true", "hydra.launcher.workers=2") == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert {line.split()[0] for line in lines[-3:-1]} == {"ia3", "zero_shot"}
    assert lines[-1].startswith("2 cells, 10 runs: ")
    assert not list(tmp_path.rglob("*.json"))


def test_bad_input_is_found_before_any_worker_starts(call, capsys, monkeypatch):
    monkeypatch.setattr(sweep, "run_in_parallel", lambda *_: 1 / 0)
    assert call("-m", "method=ia3", "shots=8,99999", *SMALL, "hydra.launcher.workers=2") == 2
    assert "only 2400 training rows" in capsys.readouterr().err


def test_a_worker_ends_with_its_parent():
    ended = threading.Event()
    workers._die_with(parent=-1, every=0.01, exit_now=lambda _code: ended.set())
    assert ended.wait(5)
