"""Every program is a subcommand with a help that helps, and what is wrong on its command line is one line, exit 2."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

from adaptbench.commands import PROGRAMS, main

ROOT = Path(__file__).parents[1]


@pytest.fixture
def adaptbench(monkeypatch, tmp_path):
    """adaptbench(*arguments) calls the command in a folder with a file called `taken`, and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()

    def call(*arguments: str) -> object:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["adaptbench", *arguments])
        try:
            main()
        except SystemExit as stop:
            return stop.code or 0
        return 0

    return call


def test_every_program_of_the_repository_is_a_subcommand():
    """But for those that write files of this repository, and modules that others share."""
    programs = {
        path.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        for folder in ("experiments", "analysis")
        for path in (ROOT / folder).rglob("*.py")
        if "\ndef main(" in path.read_text(encoding="utf-8")
    }
    assert programs - {"experiments.methods", "experiments.ship_data"} == {module for module, _ in PROGRAMS.values()}


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_of_a_subcommand(adaptbench, capsys, name):
    assert adaptbench(name, "--help") == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert len(shown.out.strip().splitlines()) >= 4
    assert name != "run" or "schema_" not in shown.out
    module = PROGRAMS[name][0].removesuffix(".__main__")
    assert f"python -m {module}" in shown.out


WRONG = [
    ("run method=iaa3", "Could not find 'method/iaa3'"),
    ("run --frob", "unrecognized arguments: --frob"),
    ("run frob", "missing EQUAL"),
    ("report", "the following arguments are required: folder"),
    ("report nowhere", "nowhere: no such folder"),
    ("report taken", "taken"),
    ("report --frob .", "--frob"),
    ("cost model=nothing", "Could not find 'model/nothing'"),
    ("cost model=t0_3b shots=few", "shots"),
    ("cost --frob", "--frob: unknown, expected setting=value"),
    ("cost format=xml", "format='xml': expected one of table, json"),
    ("advise predictions=1", "expected one folder, outputs/<experiment>, found none"),
    ("advise nowhere predictions=1", "nowhere: no such folder"),
    ("advise . predictions=1 memory=much", "memory=much: expected 8GB, 512MB or 1e9"),
    ("parameters model=nothing", "Could not find 'model/nothing'"),
    ("parameters --frob", "--frob: unknown"),
    ("memory method=nothing phase=adapt", "Could not find 'method/nothing'"),
    ("memory -x", "-x: unknown"),
    ("table1 model=t0_3b", "model=t0_3b: unknown; the only option is output=<folder>"),
    ("table1 output=taken", "taken is a file, expected a folder"),
    ("recomputed nowhere", "nowhere/bills.json"),
    ("capability workers=0", "'workers=0': expected workers=<number>"),
    ("capability output=taken/below", "taken is a file, expected a folder"),
    ("models nothing", "'nothing': expected one of minilm_l6, smollm2_135m"),
    ("models --frob", "--frob"),
    ("pretrain models=[nothing]", "expected some of"),
    ("pretrain models=micro_t0", "models"),
    ("pretrain fast=perhaps", "is not a valid bool"),
    ("pretrain --frob", "--frob: unknown"),
    ("pretrain models=[micro_gpt_s] output=taken", "taken is a file, expected a folder"),
    ("export", "expected one argument, outputs/<experiment>, found nothing"),
    ("export nowhere", "nowhere: no such folder"),
    ("export .", "no finished run in records/*.json"),
    ("submit . .", "found . . (see --help)"),
    ("submit .", "no records of RAFT tasks"),
    ("archive .", "the following arguments are required: target"),
    ("archive nowhere there", "nowhere: no such folder"),
    ("bench --pairs 0", "argument --pairs: '0': expected a whole number of at least 1"),
    ("bench --folder taken", "taken is a file, expected a folder"),
    ("trainer --datasets open_copa", "--datasets open_copa: expected a task of classification"),
    ("trainer --model nothing", "Could not find 'model/nothing'"),
    ("steps --model nothing", "Could not find 'model/nothing'"),
    ("steps --methods nothing --model micro_t0", "Could not find 'method/nothing'"),
    ("steps --device gpu --model micro_t0", "device='gpu'"),
    ("frobnicate", "'frobnicate': expected one of run, report, cost"),
    ("--frob", "'--frob': expected one of run, report, cost"),
]


@pytest.mark.parametrize(("arguments", "says"), WRONG)
def test_bad_input_is_one_line(adaptbench, capsys, arguments, says):
    assert adaptbench(*arguments.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert len(shown.err.strip().splitlines()) == 1, shown.err
    assert shown.err.startswith("error: ")
    assert says in shown.err


def test_every_subcommand_has_bad_input_here():
    assert {arguments.split()[0] for arguments, _ in WRONG} >= PROGRAMS.keys()


@pytest.mark.parametrize("damage", ["{", "[]", '{"method": "ia3"}'])
@pytest.mark.parametrize("name", ["report", "export", "submit", "archive"])
def test_a_damaged_record_is_named(adaptbench, capsys, tmp_path, name, damage):
    (tmp_path / "out/records").mkdir(parents=True)
    (tmp_path / "out/records/0123456789abcdef.json").write_text(damage)
    assert adaptbench(name, "out", *(["there"] if name == "archive" else [])) == 2
    error = capsys.readouterr().err
    assert len(error.strip().splitlines()) == 1, error
    assert "0123456789abcdef.json: not" in error or "expected one JSON object" in error


def test_the_program_that_writes_a_page_says_so_and_takes_nothing(monkeypatch, capsys):
    methods = importlib.import_module("experiments.methods")
    monkeypatch.setattr(methods, "page", lambda: 1 / 0)  # neither call may write
    monkeypatch.setattr(sys, "argv", ["methods", "--help"])
    methods.main()
    assert "docs/methods.md" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["methods", "model=t0_3b"])
    with pytest.raises(SystemExit) as stop:
        methods.main()
    assert stop.value.code == 2


def test_a_reader_that_has_read_enough_is_no_error():
    """`adaptbench --help | head -1`: the pipe is closed before anything is written."""
    program = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(.2); from adaptbench.commands import main; main(['--help'])"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    program.stdout.close()
    assert program.stderr is not None
    assert program.stderr.read() == ""
    assert program.wait() == 1
