"""Cells of a sweep are checked before any runs, and those with the same data read them once."""

import pickle

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from adaptbench import cell as cells
from adaptbench.cell import prepare_cell
from adaptbench.config import as_config, register_schemas, resolve
from adaptbench.errors import InputError
from adaptbench.launch import check
from adaptbench.launch.check import check_cells
from experiments.commandline import CONF

COMMON = ("limit=4", "seeds=[0,1]", "progress=false", "output=out")


@pytest.fixture
def composed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    register_schemas()
    with initialize_config_dir(CONF, version_base="1.3"):
        yield lambda *overrides: compose("config", [*COMMON, *overrides])


def test_cells_of_the_same_data_read_them_once(composed, monkeypatch):
    read = []
    monkeypatch.setattr(check, "read_data", lambda config: read.append(config.dataset.name) or cells.read_data(config))
    several = [
        composed(f"method={method}", f"dataset={data}")
        for data in ("micro_rte", "micro_cb")
        for method in ("ia3", "lora")
    ]
    found = check_cells([as_config(config) for config in several])
    assert read == ["micro_rte", "micro_cb"]
    alone = [prepare_cell(resolve(config)) for config in several]
    assert [cell.run_ids for cell in found] == [cell.run_ids for cell in alone]
    assert [list(cell.prompts) for cell in found] == [list(cell.prompts) for cell in alone]


@pytest.mark.parametrize("change", ["seeds=[0,2]", "shots=8", "limit=5", "template=all", "method=zero_shot"])
def test_cells_that_differ_in_data_share_none(composed, monkeypatch, change):
    read = []
    monkeypatch.setattr(check, "read_data", lambda config: read.append(config) or cells.read_data(config))
    check_cells([as_config(composed("method=ia3")), as_config(composed(change))])
    assert len(read) == 2


def test_one_bad_cell_is_refused_before_any_runs(composed):
    with pytest.raises(InputError, match="shots=99999"):
        check_cells([as_config(composed()), as_config(composed("shots=99999"))])


def test_a_checked_cell_travels_to_another_process(composed):
    (cell,) = check_cells([as_config(composed("method=lora"))])
    again = pickle.loads(pickle.dumps(cell))
    assert again.run_ids == cell.run_ids
    assert list(again.prompts) == list(cell.prompts)
    assert again.prompts_id == cell.prompts_id
    assert again.task.templates[0].render("0", cell.task.evaluation[0].fields) is not None
