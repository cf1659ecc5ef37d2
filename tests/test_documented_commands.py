"""Every command that README, CONTRIBUTING and docs print does what they say.

Commands stand in fenced `bash` blocks and in code spans. Each runs in this process, in a folder where what it names is
there: `RULES` says how, shortened where it would be long. A command without a rule fails.
"""

import contextlib
import importlib
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from adaptbench.cell import PreparedCell
from adaptbench.commands import PROGRAMS
from adaptbench.config import register_schemas, resolve
from adaptbench.costs.estimate import Estimate
from adaptbench.launch import cells, grid
from adaptbench.methods import METHODS
from experiments import pretrain
from experiments.commandline import CONF, program_arguments
from tests.conftest import DATA
from tests.models.bare import save_bare

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    return [text for kind, text in FENCE.findall(page.read_text(encoding="utf-8")) if kind == language]


def spans(page: Path) -> list[str]:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(text.split()) for text in re.findall(r"`([^`]+)`", prose)]


def commands() -> dict[str, str]:
    """Every different command -> the page that prints it first."""
    found: dict[str, str] = {}
    for page in PAGES:
        lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
        inline = [text for text in spans(page) if re.match(r"(make|python|adaptbench|pip|wandb|hf|git|bash) ", text)]
        for line in (*lines, *inline):
            words = shlex.split(line, comments=True)
            if words:
                found.setdefault(shlex.join(words), page.name)
    return found


COMMANDS = commands()


# How a program is called here with the arguments a page gives it.
def as_printed(given: list[str]) -> list[str]:
    return given


def only_named(given: list[str]) -> list[str]:
    """Programs that take minutes: a page names them, so they must be there and say what they do."""
    assert not given, "this program is only tried without arguments: give it a rule"
    return ["--help"]


def checked(given: list[str]) -> list[str]:
    """Configuration, data and prompts are read, nothing is loaded or trained (nor priced, see `reader`)."""
    return given if "--help" in given else [*given, "dry_run=true", "progress=false", "hydra.launcher.workers=1"]


def put_together(given: list[str]) -> list[str]:
    """What would be trained is put together; data sets of the hub have to exist in conf/dataset, no more."""
    arguments = []
    for argument in given:
        if argument.startswith("recipes.ia3.mixture="):
            for name in argument.partition("=")[2].strip("[]").split(","):
                assert (Path(CONF) / "dataset" / f"{name}.yaml").is_file(), name
            argument = "recipes.ia3.mixture=[micro_rte,micro_cb]"
        if argument == "recipes.tapt.start=minilm_l6":  # which may not be installed
            arguments += ["recipes.tapt.overrides=['model.path=encoder']", "recipes.tapt.output=further"]
            argument = "recipes.tapt.start=local"
        arguments.append(argument)
    return arguments or ["--help"]


def on_experiments(given: list[str]) -> list[str]:
    return given or ["--help"]


RULES: dict[str, Callable[[list[str]], list[str]]] = {
    "experiments.run": checked,
    "experiments.cost": lambda given: given or ["--help"],
    "experiments.parameters": as_printed,
    "experiments.memory": lambda given: [*given, "phase=predict"],  # one phase, so in this process
    "experiments.table1": as_printed,
    "experiments.pretrain": put_together,
    "experiments.bench": only_named,
    "experiments.bench.steps": lambda given: [
        *(*given, "--model", "micro_t0", "--runs", "1", "--steps", "1", "--input-tokens", "8"),
        *("--device", "cpu", "--folder", "bench"),
    ],
    "experiments.bench.trainer": only_named,
    "experiments.capability": only_named,
    "experiments.models": only_named,  # downloads
    "experiments.methods": only_named,
    "experiments.advise": on_experiments,
    "experiments.export": on_experiments,
    "experiments.submit": on_experiments,
    "analysis.report": on_experiments,
    "analysis.archive": on_experiments,
    "analysis.recomputed": on_experiments,
}
ELSEWHERE = {  # what a page makes first, and the test that follows it from there
    "python -m experiments.run method=gain": ("tests/methods/test_contributing.py", "gain"),
    "python -m experiments.run dataset=micro_cb dataset.metric=balanced_accuracy": (
        "tests/metrics/test_contributing.py",
        "balanced_accuracy",
    ),
    "python -m experiments.run dataset=stars method=ia3": ("tests/tasks/test_contributing.py", "dataset=stars"),
}
PLACEHOLDERS = {  # what stands for something of the reader's own
    r"/(path|folder)/or/hub-id": "model",
    r"/folder/of/an/encoder": "encoder",
    r"/path/\S+\.pt": "vectors.pt",
    r"method=\.\.\.": "method=ia3",
    r"<run_id>": "RUN_ID",
}


@dataclass
class Outcome:
    code: object
    out: str
    err: str


def run(module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """`python -m module arguments` in this process."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    out, err, code = io.StringIO(), io.StringIO(), 0
    main = importlib.import_module(f"{module}.__main__" if module == "experiments.bench" else module).main
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main() or 0
        except SystemExit as stop:
            code = stop.code or 0
    return Outcome(code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory, model_folders) -> Path:
    """A reader's folder: finished runs, tables of their own, a model and vectors."""
    folder = tmp_path_factory.mktemp("reader")
    small = ("limit=4", "seeds=[0]", "progress=false", "recipe.training.ia3.steps=2", "model=micro_t0")
    rows = "\n".join(f"{'good' if row % 2 else 'bad'},a {row} film" for row in range(64))
    (folder / "data").mkdir()
    for name in ("train.csv", "test.csv", "data/train.csv", "data/test.csv"):
        (folder / name).write_text(f"stars,review\n{rows}\n")
    for name in ("train.jsonl", "test.jsonl"):
        lines = [json.dumps({"text": f"{row} is a number", "summary": f"number {row}"}) for row in range(64)]
        (folder / name).write_text("\n".join(lines))
    own = (
        "dataset=files",
        "dataset.train=train.csv",
        "dataset.evaluation=test.csv",
        "dataset.columns={text: review, label: stars}",
    )
    raft = (*own, "dataset.labels={bad: 0, good: 1}", "dataset.name=raft_overruling", "name=raft", "method=zero_shot")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arguments in (("method=ia3",), ("-m", "method=ia3,zero_shot", "name=finished"), raft):
            done = run("experiments.run", [*arguments, *small], patch)
            assert done.code == 0, done.err
    shutil.copytree(model_folders["llama"], folder / "model")
    save_bare("bert", folder / "encoder")
    shutil.copyfile(next(folder.glob("outputs/default/adapters/*/adapter.safetensors")), folder / "vectors.pt")
    return folder


@pytest.fixture
def reader(place, monkeypatch):
    """Works there, without network, with the real data where they are; of a sweep the first two cells are enough."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("ADAPTBENCH_DATA", str(DATA))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    belonging = grid.belonging
    monkeypatch.setattr(grid, "belonging", lambda cells, entries: belonging(cells, entries)[:2])
    monkeypatch.setattr(cells, "estimate", unpriced)
    monkeypatch.setattr(pretrain, "train", not_trained)
    monkeypatch.setattr(pretrain, "ship", lambda *_: {})
    return place


def unpriced(cell: PreparedCell) -> Estimate:
    """A dry run's work but for counting FLOPs, which takes long for large models and has tests of its own."""
    config = cell.config
    assert cell.prompts
    names = config.method.name, config.model.name, config.dataset.name
    return Estimate(*names, len(config.seeds), 0, 0, 0, "counted")


def not_trained(name: str, cfg) -> tuple[object, dict]:
    """In the place of a training: what it would read, and the model it would load."""
    if cfg.recipes[name].kind == "ia3_on_mixture":
        _, mixture = pretrain.composed(cfg.recipes[name])
        assert mixture.batch(seed=0, index=0, size=2)
    return None, {"step": 0, "seconds": 0.0}


def filled_in(word: str) -> str:
    for pattern, stand_in in PLACEHOLDERS.items():
        word = re.sub(pattern, stand_in, word)
    return word


def module_of(words: list[str]) -> tuple[str, list[str]]:
    if words[0] == "adaptbench":
        assert words[1] in PROGRAMS or words[1].startswith("-"), f"no such subcommand: {words[1]}"
        return ("adaptbench.commands", words[1:]) if words[1].startswith("-") else (PROGRAMS[words[1]][0], words[2:])
    assert words[:2] == ["python", "-m"], f"no rule for {words}"
    return words[2], words[3:]


def check_program(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    module, given = module_of(words)
    module = module.removesuffix(".__main__")
    if module == "adaptbench.commands":
        assert run(module, given, monkeypatch).code == 0
        return
    assert module in RULES, f"{module} has no rule: say in RULES how it can be tried"
    arguments = RULES[module]([filled_in(word) for word in given])
    for folder in (word for word in arguments if re.match(r"(outputs|docs/results)/", word)):
        finished = "outputs/raft" if module == "experiments.submit" else "outputs/finished"
        shutil.copytree(finished, folder, dirs_exist_ok=True)
        assert folder.startswith("outputs/") or (ROOT / folder).is_dir(), f"{folder} is not in the repository"
    done = run(module, arguments, monkeypatch)
    if done.code == 2 and not DATA.is_dir() and "hub" in done.err:
        pytest.skip(f"no real data at {DATA} (set ADAPTBENCH_DATA)")
    assert done.code == 0, done.err
    assert done.out.strip()
    assert "Traceback" not in done.err


def check_make(words: list[str]) -> None:
    """The target exists, the shell understands its recipe, and what that calls is there."""
    shown = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    parsed = subprocess.run(["bash", "-n"], input=shown.stdout, capture_output=True, text=True)
    assert parsed.returncode == 0, parsed.stderr
    called = re.findall(r"-m ((?:experiments|analysis)\.[\w.]+)", shown.stdout)
    assert all(module in RULES for module in called), called
    for experiment in re.findall(r"\bexperiment=(\S+)", shown.stdout):
        assert (Path(CONF) / "experiment" / f"{experiment}.yaml").is_file(), experiment


def check_pip(words: list[str]) -> None:
    """The extras it names exist."""
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = [extra for word in words for listed in re.findall(r"\[(.*?)\]", word) for extra in listed.split(",")]
    assert set(named) <= known.keys()


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: f"{COMMANDS[command]}: {command}")
def test_a_documented_command_works(reader, monkeypatch, command):
    words = shlex.split(command)
    if command in ELSEWHERE:
        followed, made = ELSEWHERE[command]
        assert made in (ROOT / followed).read_text()
    elif words[0] == "make":
        check_make(words)
    elif words[:2] == ["pip", "install"]:
        check_pip(words)
    else:
        check_program(words, monkeypatch)


def test_the_pages_hold_commands_at_all():
    """Were they written in another way, nothing would be tried."""
    assert {"README.md", "CONTRIBUTING.md", "log.md"} <= set(COMMANDS.values())
    assert len([command for command in COMMANDS if command.startswith("python -m experiments.run")]) >= 10


def test_a_command_without_a_rule_or_with_a_fault_fails(reader, monkeypatch):
    for command, says in {
        "python -m experiments.nothing": "has no rule",
        "curl example.org": "no rule for",
        "python -m experiments.run method=iaa3": "Could not find 'method/iaa3'",
        "python -m experiments.capability limit=3": "only tried without arguments",
        "adaptbench frobnicate": "no such subcommand",
    }.items():
        with pytest.raises(AssertionError, match=says):
            check_program(shlex.split(command), monkeypatch)
    with pytest.raises(AssertionError):
        check_make(["make", "nothing"])
    with pytest.raises(AssertionError):
        check_make(["make", "reproduce", "EXPERIMENT=nothing"])
    with pytest.raises(AssertionError):
        check_pip(["pip", "install", ".[nothing]"])


SETTINGS = [text for page in PAGES[:2] for text in spans(page) if re.match(r"[a-z_.]+=[^=<]+$", text.split(" ")[0])]


@pytest.mark.parametrize("text", dict.fromkeys(SETTINGS))
def test_a_documented_setting_is_understood(text):
    """A code span such as `dataset.prompts=promptsource`: with whichever method has the settings it names."""
    given = [filled_in(word) for word in shlex.split(text)]
    named = {word.split("=")[0].removeprefix("method.") for word in given if word.startswith("method.")}
    method = next(kind for kind, made in METHODS.items() if named <= {field.name for field in fields(made)})
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        resolve(compose("config", program_arguments([f"method={method}" if named else "method=ia3", *given])))


def test_the_example_of_a_peft_tuner_runs_as_printed(reader, monkeypatch):
    pytest.importorskip("peft")
    (text,) = [span for span in spans(ROOT / "README.md") if span.startswith("method.peft_type=")]
    short = ("method.steps=2", "limit=4", "seeds=[0]", "progress=false", "name=peft", "model=micro_gpt_s")
    done = run("experiments.run", ["method=hf_peft", *shlex.split(text), *short], monkeypatch)
    assert done.code == 0, done.err
    assert len(list((reader / "outputs/peft/records").glob("*.json"))) == 1


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "README.md", "python"))))
def test_the_python_of_the_readme_runs(reader, number):
    (adapter,) = (reader / "outputs/default/adapters").iterdir()
    source = blocks(ROOT / "README.md", "python")[number].replace("<run_id>", adapter.name)
    exec(compile(source, "README.md", "exec"), {})


@pytest.mark.parametrize("number", range(len(blocks(ROOT / "README.md", "yaml"))))
def test_the_yaml_of_the_readme_is_a_configuration(reader, monkeypatch, tmp_path, number):
    """In a folder of the reader's own: `--config-dir` adds it to the ones there are."""
    text = blocks(ROOT / "README.md", "yaml")[number]
    named = re.match(r"# conf/(\w+)/(\w+)\.yaml\n", text)
    assert named, "expected the file's name in the first line"
    group, name = named.groups()
    (tmp_path / group).mkdir()
    (tmp_path / group / f"{name}.yaml").write_text(text)
    for file in ("train.csv", "test.csv"):
        rows = "\n".join(f"{'pos' if row % 2 else 'neg'},a {row} film" for row in range(64))
        (reader / "data" / file).write_text(f"gold,text\n{rows}\n")
    done = run("experiments.run", ["--config-dir", str(tmp_path), f"{group}={name}", "dry_run=true"], monkeypatch)
    assert done.code == 0, done.err
    assert name in done.out
