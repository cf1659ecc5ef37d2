"""Run the program as a user would, in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import run as program
from tests.programs import exit_code

Call = Callable[..., int]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """call(*arguments) runs `python -m experiments.run` with them in a fresh folder and returns its exit code."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> int:
        return exit_code(monkeypatch, program, *arguments)

    return run
