"""A launcher changes where cells run: never which, what they leave, nor the exit code."""

from pathlib import Path

import pytest

from tests.end_to_end.conftest import call  # noqa: F401 - a fixture
from tests.end_to_end.test_runs import SMALL, lasting, records

SWEEP = (
    *("-m", "model=micro_t0,micro_gpt_s", "method=ia3,zero_shot", "dataset=micro_cb"),
    "cells=[{model: [micro_t0], method: [ia3]}, {model: [micro_gpt_s], method: [zero_shot]}]",
)
ELSEWHERE = ("hydra/launcher=submitit_local", "hydra.launcher.cpus_per_task=1", "hydra.launcher.tasks_per_node=1")


@pytest.fixture
def submitit():
    return pytest.importorskip("submitit")


@pytest.mark.slow
def test_submitit_runs_the_same_cells_and_leaves_the_same(call, submitit, tmp_path):  # noqa: F811
    assert call(*SWEEP, *SMALL, "name=here") == 0
    assert call(*SWEEP, *SMALL, *ELSEWHERE, "name=elsewhere") == 0
    here, elsewhere = (records(tmp_path / "outputs" / name) for name in ("here", "elsewhere"))
    assert {(record["model"], record["method"]) for record in here.values()} == {
        ("micro_t0", "ia3"),
        ("micro_gpt_s", "zero_shot"),
    }
    assert here.keys() == elsewhere.keys()
    for run_id in here:
        assert {**lasting(here[run_id]), "experiment": ""} == {**lasting(elsewhere[run_id]), "experiment": ""}


@pytest.mark.slow
def test_submitit_counts_failures_and_refuses_bad_input_before_any_job(call, submitit, tmp_path, capsys):  # noqa: F811
    diverges = ("-m", "method=ia3", "method.learning_rate=1e-2,1e30", *SMALL, *ELSEWHERE)
    assert call(*diverges) == 1
    assert "2 run(s) failed" in capsys.readouterr().err
    assert len(records(tmp_path / "outputs/default")) == 2
    assert call("-m", "method=ia3", "shots=8,99999", *SMALL, *ELSEWHERE, "name=refused") == 2
    assert "only 2400 training rows" in capsys.readouterr().err
    assert not (tmp_path / "outputs/refused").exists()


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ("[{modle: [micro_t0]}]", "'modle' is neither a group of the configuration nor swept"),
        ("[{model: [micro_t00]}]", "'micro_t00' is none of its options"),
        ("[{model: micro_t0}]", "expected a list"),
        ("[{model: [micro_t5_lm]}]", "none of the cells that were asked for belongs to this experiment"),
    ],
)
@pytest.mark.parametrize("launcher", [(), ELSEWHERE])
def test_misspelt_cells_are_refused_under_every_launcher(call, capsys, tmp_path, cells, said, launcher):  # noqa: F811
    if launcher:
        pytest.importorskip("submitit")
    assert call(*SWEEP[:-1], f"cells={cells}", *SMALL, *launcher) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not list(tmp_path.rglob("*.json"))


def test_the_experiments_name_cells_that_there_are():
    """Every `cells` of conf/experiment is checked when a sweep starts; here all at once."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from omegaconf import OmegaConf

    from adaptbench.launch.grid import check_entries
    from experiments.commandline import CONF

    loader = ConfigLoaderImpl(create_config_search_path(CONF))
    checked = 0
    for path in sorted(Path(CONF, "experiment").glob("*.yaml")):
        experiment = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
        assert isinstance(experiment, dict)
        swept = experiment.get("hydra", {}).get("sweeper", {}).get("params", {})

        def options(group: str, swept: dict = swept) -> list[str] | None:
            return list(loader.get_group_options(group)) or str(swept.get(group, "")).split(",") or None

        checked += len(check_entries(experiment.get("cells", []), options))
    assert checked > 4
