"""What can fail because of the outside is found before the first model of a call is loaded, whatever is called."""

import errno
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from adaptbench import preflight, runner
from experiments import capability, pretrain
from tests.end_to_end.test_runs import records

SMALL = ("method=zero_shot", "dataset=micro_cb", "limit=4", "seeds=[0]", "progress=false")


@pytest.fixture
def no_model(monkeypatch):
    def loaded(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("adaptbench.tasks.base.TaskType.load", loaded)
    monkeypatch.setattr("adaptbench.launch.sweep.run_in_parallel", loaded)


def one_line(capsys) -> str:
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.strip().splitlines()) == 1, captured.err
    return captured.err


# The last cell of each sweep is the one that lacks something.
SWEEPS = {
    "device": (("device=cpu,gpu",), "device='gpu'"),
    "model": (("model=micro_gpt_s,local", "model.path=nobody/nothing"), "model.path='nobody/nothing'"),
    "extra": (("model.device_map=null,auto",), "model.device_map=auto needs accelerate: pip install"),
    "peft": (("method=zero_shot,hf_peft",), "method=hf_peft: needs the package peft: pip install 'adaptbench[peft]'"),
    "datasets": (("dataset=micro_cb,sst2", "dataset.folder=/nowhere"), "pip install 'adaptbench[hub]'"),
    "output": (("output=free,taken",), "output='taken'"),
    "method": (("method=zero_shot,icl_cached", "model=micro_t0"), "method.cached=true: an encoder"),
    "vectors": (("method=zero_shot,t_few", "recipe.pretrained_ia3=nowhere"), "nowhere"),
    "tracking": (
        ("tracking=none,wandb", "tracking.name=none,wandb", "tracking.mode=online"),
        "needs the package wandb",
    ),
}


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """A machine without network, extras or a tracker's package, and with a file called `taken`."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("adaptbench.models.placement.find_spec", lambda _name: None)
    for package in ("peft", "datasets", "wandb"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "taken").touch()
    for remembered in (preflight._output, preflight._model, preflight._tracking):
        remembered.cache_clear()


@pytest.mark.parametrize(("lacks", "workers"), [*((lacks, 1) for lacks in SWEEPS), ("device", 2), ("tracking", 2)])
def test_all_cells_of_a_sweep_are_tried_before_the_first_runs(call, capsys, tmp_path, bare, no_model, lacks, workers):
    sweep, says = SWEEPS[lacks]
    free = [setting for setting in SMALL if setting.split("=")[0] not in {given.split("=")[0] for given in sweep}]
    assert call("-m", *free, *sweep, f"hydra.launcher.workers={workers}") == 2
    assert says in one_line(capsys)
    assert not list(tmp_path.rglob("*.json"))


def test_nothing_of_a_sweep_is_written_where_output_is_a_file(call, capsys, tmp_path, no_model):
    (tmp_path / "taken").touch()
    assert call("-m", *SMALL, "model=micro_gpt_s,micro_gpt_m", "output=taken") == 2
    assert "taken is a file, expected a folder" in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_single_cell_is_tried_like_a_sweep(call, capsys, tmp_path, bare, no_model):
    for given, says in {"output=taken": "is a file", "device=gpu": "device='gpu'", "tracking=wandb": "wandb"}.items():
        assert call(*SMALL, given) == 2
        assert says in one_line(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_a_disk_that_fills_up_costs_the_runs_in_flight_at_most(call, capsys, tmp_path, monkeypatch):
    """Seeds in passes of their own: after the first has been written the disk is full, and no other is trained."""
    trained = []

    def counted(cell, group, store):
        trained.append(group)
        return run_group(cell, group, store)

    def full(*_, **__):
        if trained:
            raise OSError(errno.ENOSPC, "No space left on device")

    run_group = runner._run_group
    monkeypatch.setattr(runner, "_run_group", counted)
    monkeypatch.setattr(preflight, "_probe", full)
    assert call(*SMALL, "seeds=[0,1,2]", "max_fused=1", "model=micro_gpt_s") == 2
    assert "output='outputs/default': cannot be written: No space left on device" in one_line(capsys)
    assert trained == [[0]]
    assert len(records(tmp_path / "outputs/default")) == 1
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert call(*SMALL, "seeds=[0,1,2]", "max_fused=1", "model=micro_gpt_s") == 0
    assert len(records(tmp_path / "outputs/default")) == 3


def called(module, monkeypatch, *arguments: str) -> object:
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
    with pytest.raises(SystemExit) as stop:
        module.main()
    return stop.value.code


def test_the_models_of_a_pretraining_are_all_tried_before_the_first_is_trained(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pretrain, "train", lambda *_: 1 / 0)
    places = ("fast=true", "output=weights", "checkpoints=unfinished")
    assert called(pretrain, monkeypatch, "models=[micro_gpt_s,micro_t0]", *places) == 2
    assert "micro_t5_lm is not there to continue from" in one_line(capsys)
    vectors = ("models=[micro_gpt_s,ia3]", "recipes.ia3.start=micro_t0")
    assert called(pretrain, monkeypatch, *vectors, "recipes.ia3.mixture=[micro_rte,nothing]", *places) == 2
    assert "Could not find 'dataset/nothing'" in one_line(capsys)
    (tmp_path / "unfinished").touch()
    assert called(pretrain, monkeypatch, "models=[micro_gpt_s]", *places) == 2
    assert "unfinished is a file, expected a folder" in one_line(capsys)


def test_capability_tries_its_folder_first(monkeypatch, capsys, tmp_path, no_model):
    (tmp_path / "taken").touch()
    assert called(capability, monkeypatch, f"output={tmp_path}/taken") == 2
    assert "is a file, expected a folder" in one_line(capsys)
