"""bfloat16 is used where it is measured to be fast; a machine is measured once, and an unwritable cache is no error."""

import json

import pytest
import torch

from adaptbench.models import cpu_speed
from adaptbench.models.cpu_speed import WORTH, bfloat16_speedup, fast_dtype

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu_speed, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache"


def measuring(monkeypatch, ratio):
    """As if the products took that much less time; how often they were timed, as a list that grows."""
    calls = []
    monkeypatch.setattr(cpu_speed, "_measured", lambda: calls.append(1) or ratio)
    return calls


@pytest.mark.parametrize(("ratio", "dtype"), [(WORTH, "bfloat16"), (WORTH - 0.01, "float32"), (0.2, "float32")])
def test_what_auto_stands_for_follows_the_measurement(folder, monkeypatch, ratio, dtype):
    measuring(monkeypatch, ratio)
    assert fast_dtype(CPU) == dtype


def test_a_machine_is_measured_once_and_another_by_itself(folder, monkeypatch):
    calls = measuring(monkeypatch, 4.0)
    assert [bfloat16_speedup() for _ in range(3)] == [4.0] * 3
    assert len(calls) == 1
    monkeypatch.setattr(cpu_speed, "processor", lambda: "another")
    measuring(monkeypatch, 0.5)
    assert bfloat16_speedup() == 0.5
    assert sorted(json.loads((folder / "bfloat16.json").read_text()).values()) == [0.5, 4.0]


def test_a_file_that_cannot_be_read_or_written_costs_a_measurement_only(tmp_path, monkeypatch):
    calls = measuring(monkeypatch, 3.0)
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(cpu_speed, "cache_folder", lambda: tmp_path / "file" / "below")
    assert [bfloat16_speedup(), bfloat16_speedup()] == [3.0, 3.0]
    assert len(calls) == 2
    (tmp_path / "bfloat16.json").write_text('{"half a line')
    monkeypatch.setattr(cpu_speed, "cache_folder", lambda: tmp_path)
    assert bfloat16_speedup() == 3.0
    assert list(json.loads((tmp_path / "bfloat16.json").read_text()).values()) == [3.0]


def test_the_measurement_is_a_ratio_of_times_and_leaves_the_threads_as_they_were(monkeypatch):
    threads = torch.get_num_threads()
    now = iter(range(10_000))
    monkeypatch.setattr(cpu_speed.time, "perf_counter", lambda: float(next(now)))
    assert cpu_speed._measured() == 1.0
    assert torch.get_num_threads() == threads


def test_other_devices_are_not_measured(folder, monkeypatch):
    calls = measuring(monkeypatch, 9.0)
    assert fast_dtype(torch.device("meta")) == "float32"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    assert fast_dtype(torch.device("cuda")) == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: False)
    assert fast_dtype(torch.device("cuda")) == "float32"
    assert not calls
