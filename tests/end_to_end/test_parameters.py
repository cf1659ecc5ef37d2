"""`python -m experiments.parameters`: the table of trainable parameters, without weights."""

import json
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments import parameters


def call(monkeypatch, *arguments):
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["experiments.parameters", *arguments])
    parameters.main()


def test_t0_3b_in_json(monkeypatch, capsys):
    call(monkeypatch, "model=t0_3b", "format=json")
    found = {row["method"]: row["trainable"] for row in json.loads(capsys.readouterr().out)}
    assert found["zero_shot"] == found["icl"] == 0
    assert found["ia3"] == 540_672
    assert found["lora"] == 8_847_360
    assert found["prefix"] == 589_824
    assert found["full_ft"] == 2_783_959_040


def test_the_table_names_every_method(monkeypatch, capsys):
    call(monkeypatch, "model=micro_t0")
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line.startswith("ia3 ")]
    assert [line for line in lines if line.startswith("full_ft ") and line.endswith("100.0000%")]


@pytest.mark.parametrize("arguments", [["model=nothing"], ["format=xml"], ["model.path=/nowhere"]])
def test_bad_input_is_one_line(monkeypatch, capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        call(monkeypatch, *arguments)
    assert stop.value.code == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
