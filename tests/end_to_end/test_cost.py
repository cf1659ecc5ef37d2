"""`python -m experiments.cost` and its relatives, as a user calls them."""

import json
import sys

import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra

from analysis import recomputed
from experiments import cost, memory, table1
from experiments.bench import steps


@pytest.fixture
def call(monkeypatch, capsys):
    """call(module, *arguments) runs its main and returns what it printed."""

    def run(module, *arguments: str) -> str:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()
        return capsys.readouterr().out

    return run


REQUIRED = (
    *("params.total", "params.trainable", "flops.adapt.measured", "flops.adapt.paper", "flops.predict.measured"),
    *("flops.predict.paper", "memory.adapt.peak_bytes", "memory.predict.peak_bytes", "storage.bytes", "break_even"),
)


def test_a_cell_at_paper_scale_in_json(call):
    found = json.loads(call(cost, "model=t0_11b", "method=ia3", "format=json"))
    assert set(REQUIRED) <= set(found)
    assert found["params.trainable"] == 1_081_344
    assert found["flops.predict.paper"] == pytest.approx(1.1e12, rel=0.031)
    assert found["break_even"] == 12
    items = found["memory.adapt.items"]
    assert sum(items.values()) == found["memory.adapt.peak_bytes"]
    assert items["weights"] > 22e9


def test_lengths_of_a_data_set_in_the_models_tokens(call):
    small = ("model=micro_gpt_l", "method=icl", "reference=micro_t0", "format=json")
    own = json.loads(call(cost, *small, "dataset=micro_rte"))
    assert own["shots"] == 32
    assert "means of micro_rte" in own["lengths"]["source"]
    assert own["cached"]["flops.predict.measured"] < own["flops.predict.measured"] / 10
    given = json.loads(call(cost, *small, "input_tokens=40", "choices=3", "choice_tokens=2", "shots=2"))
    assert (given["lengths"]["prompt"], given["shots"]) == (46, 2)


def test_a_folder_with_a_configuration_is_enough(call, tmp_path, backbones):
    backbones["opt"].model.config.save_pretrained(tmp_path / "mine")
    text = call(cost, f"model={tmp_path}/mine", "method=lora", "method.rank=2", "reference=micro_gpt_l")
    assert text.startswith("lora on mine, 41 shots")
    assert "break-even" in text


def test_every_method_has_a_bill(call):
    from experiments.cost import CONF, Path

    common = ("recipe=micro", "reference=micro_gpt_l", "format=json")
    encoder = ("model=minilm_l6", "model.local=null", "dataset=files_classification", "dataset.classes=2")
    for option in sorted(path.stem for path in (Path(CONF) / "method").glob("*.yaml")):
        model = "micro_gpt_s" if option.endswith("_cached") else "micro_t0"  # an encoder cannot share demonstrations
        under_a_head = option in ("linear_probe", "unipelt_ia3", "unipelt_stack3") or option.startswith("unipelt_paper")
        asked = encoder if under_a_head else (f"model={model}",)
        found = json.loads(call(cost, *common, *asked, f"method={option}"))
        assert found["flops.predict.measured"] > 0, option


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["model=nothing"], "Could not find 'model/nothing'"),
        (["model=/no/such/folder"], "not a model folder"),
        (["method=iaa3"], "Could not find 'method/iaa3'"),
        (["format=xml"], "format='xml'"),
        (["lengths=long"], "lengths='long'"),
        (["input_tokens=0"], "input_tokens=0: expected a whole number of at least 1"),
        (["choices=two"], "choices=two"),
        (["shots=0"], "shots=0"),
        (["method=icl_cached"], "method.cached=true: an encoder"),
        (["reference_method=lora"], "expected a method that reads examples"),
        (["method=icl", "reference_method=icl"], "expected a method that trains something"),
        (["model=gpt3_175b", "dataset=micro_rte", "lengths=dataset"], "no tokenizer of gpt3_175b"),
    ],
)
def test_bad_input_is_one_line(call, capsys, arguments, says):
    own = [] if any(argument.startswith("model=") for argument in arguments) else ["model=micro_t0"]
    with pytest.raises(SystemExit) as stop:
        call(cost, *own, "reference=micro_gpt_l", *arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_help_explains(call):
    assert "break_even" in call(cost, "--help")
    assert "bills.json" in call(table1, "--help")
    assert "fresh process" in call(memory, "--help")


def test_table1_is_within_three_percent_of_every_printed_cost(call, tmp_path):
    call(table1, f"output={tmp_path}")
    assert recomputed.main([str(tmp_path)]) == 0
    frame = pd.read_csv(tmp_path / "tables/table1_costs.csv").set_index("quantity")
    assert set(frame.index) == set(recomputed.NAMES)
    assert (frame.reading_off_percent.abs() <= 3).all()
    assert frame.why.str.len().min() > 40
    assert frame.counted["t_few.training"] / frame.printed["t_few.training"] == pytest.approx(2 / 3, abs=0.02)
    assert {path.suffix for path in (tmp_path / "tables").iterdir()} == {".csv", ".md", ".tex"}
    assert (tmp_path / "figures/break_even.png").stat().st_size > 10_000


def test_memory_is_measured_in_processes_of_their_own(call):
    arguments = ("model=micro_t0", "method=ia3", "dataset=micro_rte", "recipe=micro", "format=json")
    adapt, predict = json.loads(call(memory, *arguments))
    assert adapt["measured"] > adapt["tensors"] > predict["tensors"] > 0
    assert predict["measured"] > predict["tensors"]


def test_steps_are_timed_at_any_shape(call, tmp_path):
    call(steps, "--model", "micro_t0", "--methods", "ia3", "full_ft", "--steps", "2", "--device", "cpu",
         "--folder", str(tmp_path))  # fmt: skip
    found = json.loads((tmp_path / "steps.json").read_text())
    assert [(entry["method"], entry["runs"]) for entry in found["results"]] == [("ia3", 1), ("ia3", 5), ("full_ft", 1)]
    assert all(entry["achieved_flops_per_second"] > 0 and entry["peak_bytes"] is None for entry in found["results"])
    assert "hardware" in found
