"""Everything outside that a run needs is tried before a model is loaded, and what is missing is one clear line."""

import errno
import shutil
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from adaptbench import preflight as module
from adaptbench.config import register_schemas, resolve
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.models import placement
from adaptbench.preflight import check_output, preflight
from adaptbench.schema import Config, TrackingConfig
from experiments.commandline import CONF


@pytest.fixture(scope="module")
def default() -> Config:
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        return resolve(compose("config", ["method=zero_shot", "model=micro_gpt_s", "device=cpu"]))


@pytest.fixture
def cell(default, tmp_path, monkeypatch):
    """cell(**changes): a cell with these settings, its results going to a fresh folder; `model` takes a dictionary."""
    monkeypatch.chdir(tmp_path)
    forget()

    def changed(model: dict | None = None, **changes) -> Config:
        return replace(default, **{"output": "out", **changes}, model=replace(default.model, **(model or {})))

    yield changed
    forget()


def forget() -> None:
    """What has been tried is not tried again in a process; here every test is one of its own."""
    for remembered in (module._output, module._model, module._tracking):
        remembered.cache_clear()
    module._sizes.clear()


def refusal(config: Config, waiting: int = 1) -> str:
    with pytest.raises(InputError) as caught:
        preflight(config, waiting)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_cell_that_lacks_nothing_leaves_nothing_behind(cell, tmp_path):
    assert preflight(cell(), waiting=2) == 0  # zero-shot stores nothing
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("output", ["taken", "taken/below/it"])
def test_output_is_a_file(cell, tmp_path, output):
    (tmp_path / "taken").touch()
    assert refusal(cell(output=output)) == f"output='{output}': {tmp_path}/taken is a file, expected a folder"


@pytest.mark.parametrize("kind", ["records", "adapters", "tracked"])
def test_a_file_stands_where_a_folder_of_results_will_be(cell, tmp_path, kind):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / kind).touch()
    assert refusal(cell()).endswith(f"out/{kind} is a file, expected a folder")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT])
def test_what_the_disk_refuses_is_said_in_its_words(cell, monkeypatch, number):
    def refuses(*_, **__):
        raise OSError(number, "the disk's words")

    monkeypatch.setattr(module.os, "fsync", refuses)
    assert refusal(cell()) == "output='out': cannot be written: the disk's words"


def test_a_name_that_no_file_system_takes(cell):
    assert refusal(cell(output="a\0b")) == "output='a\\x00b': cannot be written: embedded null byte"
    assert "too long" in refusal(cell(output="x" * 5000))


def test_what_is_tried_is_taken_away_again_also_in_folders_that_exist(cell, tmp_path):
    (tmp_path / "out/records").mkdir(parents=True)
    check_output(tmp_path / "out", "output")
    assert [path.name for path in (tmp_path / "out").rglob("*")] == ["records"]


@pytest.fixture
def small_disk(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=10**9, free=12 * 10**6))


def test_adapters_that_will_not_fit_the_disk_are_known_before_training(cell, small_disk):
    full = METHODS["full_ft"](name="full_ft")
    one_adapter = preflight(cell(method=full), waiting=1)
    assert one_adapter > 4 * 100_000  # all parameters of the model in float32
    assert preflight(cell(method=full), waiting=3) == 3 * one_adapter
    waiting = 12 * 10**6 // one_adapter + 1
    assert "12 MB are free; keep_adapters=false keeps no adapter" in refusal(cell(method=full), waiting)
    assert preflight(cell(method=full, keep_adapters=False), waiting) == 0


def test_a_file_system_that_does_not_say_how_large_it_is(cell, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=0, free=0))
    assert preflight(cell(method=METHODS["full_ft"](name="full_ft")), waiting=1) > 0


@pytest.mark.parametrize(
    ("device", "says"), [("cuda", "device='cuda': "), ("gpu", "device='gpu': Expected one of cpu")]
)
def test_a_device_that_is_not_there(cell, device, says):
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one here")
    assert refusal(cell(device=device)).startswith(says)


def test_the_device_without_numbers_is_none_to_run_on(cell):
    assert refusal(cell(device="meta")) == (
        "device='meta': has no numbers, expected auto, cpu, cuda or another accelerator"
    )


@pytest.mark.parametrize(
    ("setting", "package"),
    [
        ({"device_map": "auto"}, "accelerate"),
        ({"quantization": "8bit"}, "bitsandbytes"),
        ({"quantization": "4bit"}, "accelerate"),
    ],
)
def test_a_package_that_a_setting_of_the_model_needs(cell, monkeypatch, setting, package):
    monkeypatch.setattr(placement, "find_spec", lambda name: None if name == package else object())
    assert f"needs {package}: pip install 'adaptbench[" in refusal(cell(model=setting))


def test_a_hub_model_that_cannot_be_reached(cell, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    says = refusal(cell(model={"path": "nobody/nothing"}))
    assert says.startswith("model.path='nobody/nothing': not a model folder, and not on the hub or in its cache")


def test_a_revision_that_cannot_be_found_is_never_replaced_by_the_main_branch(cell, monkeypatch):
    monkeypatch.setattr(module, "content_id", lambda *_: None)
    says = refusal(cell(model={"path": "someone/model", "revision": "v2"}))
    assert says == "model.revision='v2': not in the cache, and the hub has none or cannot be reached"


def test_a_folder_without_weights(cell, model_folders, tmp_path):
    folder = shutil.copytree(model_folders["llama"], tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert "no weights in this folder" in refusal(cell(model={"path": str(folder)}))


def test_a_method_that_does_not_fit_its_model(cell):
    said = METHODS["intrinsic_said"](name="said", dimension=500_000)
    assert "method.dimension=500000" in refusal(cell(method=said))
    cached = METHODS["icl"](name="icl_cached", cached=True)
    preflight(cell(method=cached), waiting=1)
    assert "an encoder that looks both ways" in refusal(cell({"path": "microworld:micro_t0"}, method=cached))


def test_a_tuner_that_reads_weights_while_it_attaches_is_left_to_the_real_model(cell):
    """On a model without numbers it fails, and that says nothing of the input."""
    pytest.importorskip("peft")
    boft = METHODS["hf_peft"](name="hf_peft", peft_type="BOFT")
    assert preflight(cell(method=boft), waiting=1) == 0


def test_vectors_that_a_method_starts_from(cell):
    t_few = METHODS["ia3"](name="t_few", pretrained="outputs/vectors/nowhere")
    assert "outputs/vectors/nowhere" in refusal(cell(method=t_few))


def test_nothing_is_asked_of_the_outside_where_nothing_is_left_to_do(cell, tmp_path):
    """A finished experiment can be called again from anywhere, if only to see that it is finished."""
    (tmp_path / "taken").touch()
    assert preflight(cell(model={"path": "nobody/nothing"}, device="gpu", output="taken"), waiting=0) == 0


def online(**changes: str) -> TrackingConfig:
    return TrackingConfig(**{"name": "wandb", "mode": "online", **changes})


class Service:
    """wandb, as far as it is asked before anything is tracked."""

    def __init__(self, answer: object):
        self.answer, self.asked = answer, 0
        self.Settings = dict

    def init(self) -> None:
        raise AssertionError("nothing is worth tracking yet")

    def setup(self, _settings: dict) -> None:
        pass

    def login(self, prompt: bool, verify: bool) -> object:
        assert verify
        assert not prompt  # a program that runs at night asks nobody
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (False, "no key; set WANDB_API_KEY or run `wandb login`"),
        (ConnectionError("cannot\nreach it"), "tracking.mode=online: cannot reach it"),
        (ValueError("API key is not valid"), "tracking.mode=online: API key is not valid"),
    ],
)
@pytest.mark.parametrize("waiting", [0, 1])
def test_a_tracker_that_refuses(cell, monkeypatch, answer, says, waiting):
    monkeypatch.setitem(sys.modules, "wandb", Service(answer))
    found = refusal(cell(tracking=online()), waiting)
    assert says in found
    assert "tracking.mode=offline" in found  # the way on


def test_a_tracker_is_asked_once_for_all_cells_and_not_where_it_is_offline(cell, monkeypatch):
    service = Service(True)
    monkeypatch.setitem(sys.modules, "wandb", service)
    preflight(cell(tracking=online(mode="offline")), 1)
    assert service.asked == 0
    for _ in range(3):
        preflight(cell(tracking=online()), 1)
    assert service.asked == 1


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_without_the_trackers_package(cell, monkeypatch, mode):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert refusal(cell(tracking=online(mode=mode))) == ("tracking=wandb needs the package wandb: pip install wandb")


def test_a_folder_called_wandb_is_not_the_package(cell, monkeypatch):
    """The tracker leaves such a folder where it runs; without the package, Python imports it as one."""
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace())
    assert "is not that package" in refusal(cell(tracking=online(mode="offline")))


def test_a_project_that_the_tracker_would_refuse(cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", Service(True))
    assert "takes no #" in refusal(cell(tracking=online(mode="offline", project="a#b")))
