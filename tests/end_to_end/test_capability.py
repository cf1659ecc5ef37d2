"""What the base models can do: the program's options, and what it says of records."""

import sys

import numpy as np
import pytest

from experiments import capability
from tests.analysis.synthetic import record, write_run

SHARES = {  # (model, method) -> accuracy
    ("micro_t0", "zero_shot"): 0.6,
    ("micro_t0", "full_ft"): 0.7,
    ("micro_t0", "full_ft_2000"): 0.9,
    **{(size, "zero_shot"): 0.5 for size in capability.SIZES},
    **{(size, "icl_paper_shots"): 0.6 + 0.05 * rank for rank, size in enumerate(capability.SIZES)},
    **{(capability.LARGEST, f"icl_{shots}"): 0.5 + shots / 100 for shots in capability.SHOTS},
}


def test_the_report_says_what_the_records_hold(tmp_path):
    for (model, method), share in SHARES.items():
        for dataset in ("micro_rte", "micro_wic"):
            for seed in range(2):
                own = {"model": model, "method": method, "dataset": dataset, "seed": seed, "chance": 0.5}
                name = f"{model}-{method}-{dataset}-{seed}"
                write_run(tmp_path, record(name, **own), (np.arange(100) < 100 * share).astype(float))
    lines = "\n".join(capability.report(tmp_path))
    assert "2 held-out tasks, chance 50.0" in lines
    assert "zero-shot micro_t0: 60.0" in lines
    assert "+10.0 against chance" in lines
    assert "micro_gpt_m: zero-shot 50.0" in lines
    assert "65.0" in lines
    assert "16: 66.0" in lines
    assert "on 2,000 examples 90.0" in lines
    assert lines.endswith("+20.0")


@pytest.mark.parametrize("argument", ["workers=two", "limit=", "colour=red"])
def test_an_unknown_option_is_one_line(monkeypatch, capsys, argument):
    monkeypatch.setattr(sys, "argv", ["capability", argument])
    with pytest.raises(SystemExit) as stop:
        capability.main()
    assert stop.value.code == 2
    assert argument in capsys.readouterr().err


def test_every_arm_is_asked_of_every_task():
    cells = capability.cells(limit=3, output="x")
    assert len(cells) == 13 * 11
    assert {cell.config.limit for cell in cells} == {3}
    plenty = [cell for cell in cells if cell.config.method.name == "full_ft_2000"]
    assert {(cell.config.shots, cell.config.method.steps) for cell in plenty} == {(2000, 125)}
