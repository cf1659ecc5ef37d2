"""Programs called in this process, as a user calls them."""

import sys
from types import ModuleType

import pytest
from hydra.core.global_hydra import GlobalHydra


def exit_code(monkeypatch: pytest.MonkeyPatch, program: ModuleType, *arguments: str) -> int:
    """What `python -m <program> <arguments>` ends with."""
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [program.__name__, *arguments])
    try:
        program.main()
    except SystemExit as stop:
        return int(stop.code or 0) if isinstance(stop.code, int | None) else 1
    return 0
