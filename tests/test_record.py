"""A record exists if and only if its run finished."""

import json

import pandas as pd
import pytest

from adaptbench.record import KEYS, RunRecord, RunStore


def record(**changes):
    return RunRecord({**dict.fromkeys(KEYS), "run_id": "abc", "score": 0.5, **changes})


def test_a_record_survives_the_disk(tmp_path):
    store = RunStore(tmp_path)
    assert store.load("abc") is None
    store.write(record(**{"params.trainable": 7}))
    assert store.load("abc") == record(**{"params.trainable": 7})


def test_a_record_lacking_a_key_is_refused():
    with pytest.raises(ValueError, match=r"flops\.adapt\.paper"):
        RunRecord({key: None for key in KEYS if key != "flops.adapt.paper"})


def test_nothing_half_written_is_ever_seen(tmp_path):
    """A value that cannot be stored leaves neither a record nor a temporary file behind."""
    store = RunStore(tmp_path)
    with pytest.raises(ValueError, match="Out of range float"):
        store.write(record(score=float("nan")))
    assert list(tmp_path.rglob("*.json*")) == []


def test_a_failure_is_kept_until_the_run_succeeds(tmp_path):
    store = RunStore(tmp_path)
    try:
        raise RuntimeError("out of luck")
    except RuntimeError as error:
        store.write_failure("abc", {"method": "ia3", "seed": 1}, error)
    failure = json.loads((tmp_path / "failures/abc.json").read_text())
    assert (failure["error"], failure["method"]) == ("out of luck", "ia3")
    assert "RuntimeError" in failure["traceback"]
    assert store.load("abc") is None
    store.write(record())
    assert not (tmp_path / "failures/abc.json").exists()


def test_predictions_are_parquet(tmp_path):
    store = RunStore(tmp_path)
    table = pd.DataFrame({"uid": ["a", "a"], "choice": [0, 1], "log_likelihood": [-1.5, -0.25]})
    store.write_predictions("abc", table)
    assert pd.read_parquet(tmp_path / "predictions/abc.parquet").equals(table)
