"""`python -m experiments.parameters`: the table of trainable parameters, without weights."""

import json
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from experiments import methods, parameters


def call(monkeypatch, *arguments):
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["experiments.parameters", *arguments])
    parameters.main()


RELEASED = {  # of the paper's released configurations, counted once on the real model's shape
    "ia3": 540_672,
    "lora_tfew": 9_097_216,
    "bitfit_tfew": 1_331_200,
    "layernorm": 249_856,
    "adapter_tfew": 12_934_144,
    "compacter": 870_400,
    "compacter_pp": 560_128,
    "prompt_10": 40_960,
    "prompt_100": 409_600,
    "prefix": 589_824,
    "fish_mask_02": 5_567_918,
    "fish_mask_002": 556_791,
    "full_ft": 2_783_959_040,
}
LAYER_NORMS, LINEAR_MAPS, NORMS = 249_856, 432, 122


def test_t0_3b_in_json(monkeypatch, capsys):
    call(monkeypatch, "model=t0_3b", "format=json")
    rows = json.loads(capsys.readouterr().out)
    found = {row["method"]: row["trainable"] for row in rows}
    assert {name: found[name] for name in RELEASED} == RELEASED
    assert found["zero_shot"] == found["icl"] == 0
    assert found["lora"] == RELEASED["lora_tfew"] - LAYER_NORMS
    assert found["adapter"] == RELEASED["adapter_tfew"] - LAYER_NORMS
    assert found["intrinsic_said_20k"] == 20_000 + LINEAR_MAPS + NORMS
    assert found["intrinsic_said_500k"] == 500_000 + LINEAR_MAPS + NORMS
    assert {row["method"] for row in rows if row.get("agrees") is False} == {"compacter", "compacter_pp"}
    assert sum("agrees" in row for row in rows) == 15


def test_counts_round_to_printed_figures_or_not():
    assert parameters.rounds_to(540_672, "540K")
    assert parameters.rounds_to(589_824, "576K")
    assert parameters.rounds_to(2_783_959_040, "3B")
    assert not parameters.rounds_to(870_400, "807K")
    assert not parameters.rounds_to(560_128, "540K")


def test_the_page_of_methods_is_up_to_date():
    GlobalHydra.instance().clear()
    assert methods.PAGE.read_text(encoding="utf-8") == methods.page(), "run `python -m experiments.methods`"


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
