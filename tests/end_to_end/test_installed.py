"""Installed from its wheel, the program is one command that works from any directory, without the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from adaptbench.commands import PROGRAMS

ROOT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "src", "experiments", "analysis", "conf")

NOBODY = ("-c", "user.name=nobody", "-c", "user.email=nobody@localhost", "-c", "commit.gpgsign=false")
MINE = """
defaults: [schema_dataset]
name: mine
source: files
train: mine.jsonl
evaluation: mine.jsonl
shots: 4
labels: {bad: 0, good: 1}
templates:
  plain: {jinja: "{{text}} ||| {{answer_choices[label]}}", answer_choices: "no ||| yes"}
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy, since building leaves files beside the sources."""
    pytest.importorskip("setuptools", minversion="77")
    copy, target = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(ROOT / name, copy / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", target, copy)
    (built,) = target.glob("adaptbench-*.whl")
    return built


def pip(*arguments: object) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel; libraries come from this one, but not what is installed in it for editing:
    a folder named in a `.pth` file is searched, and the `.pth` files inside it are not read."""
    folder = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    for arguments in (("init", "--quiet"), (*NOBODY, "commit", "--quiet", "--allow-empty", "--message", "the user's")):
        subprocess.run(["git", "-C", str(folder), *arguments], check=True)  # environments lie in people's repositories
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip("--python", folder / "bin" / "python", "install", "--no-deps", "--no-index", wheel)
    return folder


@dataclass(frozen=True)
class User:
    """Calls the console script in a folder that knows nothing of this repository."""

    script: Path
    folder: Path

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HYDRA"))}
        command = [str(self.script), *arguments]
        return subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True)


@pytest.fixture(scope="module")
def adaptbench(environment, tmp_path_factory) -> User:
    """The user's folder has names of ours in it, as it may well have."""
    folder = tmp_path_factory.mktemp("somewhere")
    (folder / "experiments").mkdir()
    (folder / "experiments" / "__init__.py").write_text("raise RuntimeError('a file of the user')\n")
    (folder / "analysis.py").write_text("raise RuntimeError('a file of the user')\n")
    return User(environment / "bin" / "adaptbench", folder)


def test_the_wheel_holds_what_the_programs_read_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configuration = {path.relative_to(ROOT / "conf").as_posix() for path in (ROOT / "conf").rglob("*.yaml")}
    assert {name.removeprefix("adaptbench/conf/") for name in names if name.endswith(".yaml")} == configuration
    for folder, inside in {"src/adaptbench/microworld/weights": "adaptbench", "analysis": "analysis"}.items():
        files = [path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        base = ROOT / "src" if inside == "adaptbench" else ROOT
        assert {path.relative_to(base).as_posix() for path in files} <= names
    for path in (*(ROOT / "src").rglob("*.py"), *(ROOT / "experiments").rglob("*.py")):
        base = ROOT / "src" if path.is_relative_to(ROOT / "src") else ROOT
        assert path.relative_to(base).as_posix() in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"adaptbench", "experiments", "analysis", "hydra_plugins", "adaptbench-0.1.0.dist-info"}


def test_help_names_every_subcommand_and_an_unknown_one_is_one_line(adaptbench):
    shown = adaptbench("--help")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert all(re.search(rf"^  {name} ", shown.stdout, re.MULTILINE) for name in PROGRAMS)
    assert adaptbench().stdout == shown.stdout
    assert adaptbench("--version").stdout == "adaptbench 0.1.0\n"
    wrong = adaptbench("frobnicate")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert len(wrong.stderr.splitlines()) == 1
    assert "'frobnicate': expected one of run, report," in wrong.stderr


def test_a_sweep_and_its_report_from_another_directory(adaptbench):
    """In two processes, which have to find the installed package, too."""
    small = ("dataset=micro_rte", "limit=8", "seeds=[0,1]", "progress=false", "hydra.launcher.workers=2")
    done = adaptbench("run", "-m", "method=zero_shot", "model=micro_gpt_s,micro_gpt_m", *small)
    assert done.returncode == 0, done.stderr
    results = adaptbench.folder / "outputs/default"
    found = [json.loads(path.read_text()) for path in (results / "records").glob("*.json")]
    assert len(found) == 4
    assert all(record["provenance.git"] == {"commit": None, "dirty": None} for record in found)
    reported = adaptbench("report", "outputs/default")
    assert reported.returncode == 0, reported.stderr
    assert reported.stdout.splitlines()[-1] == "outputs/default/report.html"
    assert (results / "report.html").is_file()


def test_a_data_set_of_the_users_own_in_a_folder_of_theirs(adaptbench):
    (adaptbench.folder / "conf/dataset").mkdir(parents=True)
    (adaptbench.folder / "conf/dataset/mine.yaml").write_text(MINE)
    rows = "".join(json.dumps({"text": f"film {row}", "label": ("bad", "good")[row % 2]}) + "\n" for row in range(8))
    (adaptbench.folder / "mine.jsonl").write_text(rows)
    model = ("method=zero_shot", "model=micro_gpt_s", "seeds=[0]", "name=own", "progress=false")
    done = adaptbench("run", "--config-dir", "conf", "dataset=mine", *model)
    assert done.returncode == 0, done.stderr
    (record,) = (adaptbench.folder / "outputs/own/records").glob("*.json")
    assert json.loads(record.read_text())["dataset"] == "mine"


def test_bills_and_counts_from_another_directory(adaptbench):
    priced = adaptbench("cost", "model=micro_t0", "method=ia3", "format=json", "reference=micro_gpt_l")
    assert priced.returncode == 0, priced.stderr
    assert json.loads(priced.stdout)["params.trainable"] > 0
    counted = adaptbench("parameters", "model=micro_t0", "format=json")
    assert counted.returncode == 0, counted.stderr
    assert {"ia3", "lora", "full_ft"} <= {row["method"] for row in json.loads(counted.stdout)}
