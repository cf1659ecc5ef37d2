"""Pre-training from nothing: miniature models, the same ones every time, also after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
MODELS = ("micro_t5_lm", "micro_t0", "micro_gpt_s", "micro_gpt_m", "micro_gpt_l")


def command(output: Path, *overrides: str) -> list[str]:
    base = [sys.executable, "-m", "experiments.pretrain", "fast=true", f"output={output / 'weights'}"]
    return [*base, f"checkpoints={output / 'checkpoints'}", "checkpoint_minutes=0", *overrides]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def hashes(output: Path) -> dict[str, str]:
    return {p.parent.name: json.loads(p.read_text())["sha256"] for p in (output / "weights").glob("*/provenance.json")}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("straight")
    started = time.monotonic()
    subprocess.run(command(output), cwd=ROOT, env=environment(), check=True, capture_output=True)
    assert time.monotonic() - started < 180, "miniatures are promised in three minutes"
    return output


def test_all_models_are_trained_and_saved_and_nothing_else_is_left(straight):
    assert set(hashes(straight)) == {*MODELS, "micro_t0_ia3"}
    assert not list((straight / "checkpoints").iterdir())
    for name in MODELS:
        files = {p.name for p in (straight / "weights" / name).iterdir()}
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= files
    assert (straight / "weights" / "micro_t0_ia3" / "adapter.safetensors").exists()


def test_a_killed_run_continues_to_the_very_same_model(straight, tmp_path):
    call = command(tmp_path, "models=[micro_gpt_s]")
    killed = subprocess.Popen(call, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "checkpoints" / "micro_gpt_s.pt").exists() and killed.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "weights").exists(), "it was killed before it finished"
    subprocess.run(call, cwd=ROOT, env=environment(), check=True, capture_output=True)
    assert hashes(tmp_path)["micro_gpt_s"] == hashes(straight)["micro_gpt_s"]


def test_the_same_seed_builds_the_same_encoder_decoder(straight, tmp_path):
    subprocess.run(
        command(tmp_path, "models=[micro_t5_lm]"), cwd=ROOT, env=environment(), check=True, capture_output=True
    )
    assert hashes(tmp_path)["micro_t5_lm"] == hashes(straight)["micro_t5_lm"]


def test_an_unknown_model_is_named(tmp_path):
    done = subprocess.run(
        command(tmp_path, "models=[micro_bert]"), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "micro_bert" in done.stderr


def test_a_model_that_another_starts_from_must_be_there(tmp_path):
    done = subprocess.run(
        command(tmp_path, "models=[micro_t0]"), cwd=ROOT, env=environment(), capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "train micro_t5_lm first" in done.stderr
