"""The shape of the source: which file may know which."""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

from adaptbench.methods import METHODS
from adaptbench.tasks import TASKS

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src"
PROGRAMS = REPOSITORY / "experiments"
ANALYSIS = REPOSITORY / "analysis"


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file, of everything in src/."""
    found = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, also inside functions and for type checking."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inside = f"{node.module}.{alias.name}"
                yield inside if inside in modules() else node.module


@cache
def graph() -> dict[str, set[str]]:
    """Module -> the modules of src/ that it imports."""
    return {name: set(imported(path)) & set(modules()) - {name} for name, path in modules().items()}


def reachable(start: str, edges: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        if (name := waiting.pop()) not in found:
            found.add(name)
            waiting += edges[name]
    return found


def cycles(edges: Mapping[str, set[str]]) -> list[str]:
    return sorted(name for name in edges if name in reachable(name, edges))


def test_no_module_imports_itself_by_way_of_others():
    assert len(graph()) > 80
    assert not cycles(graph())


def test_every_module_can_be_imported_first():
    """A package whose `__init__` imports its members (a registry) counts as one module: any of them runs them all."""
    registries = {
        name
        for name, path in modules().items()
        if path.name == "__init__.py" and any(other.startswith(f"{name}.") for other in graph()[name])
    }
    assert {"adaptbench.methods", "adaptbench.metrics", "adaptbench.tasks"} <= registries

    def whole(name: str) -> str:
        return next((package for package in registries if f"{name}.".startswith(f"{package}.")), name)

    edges: dict[str, set[str]] = {whole(name): set() for name in graph()}
    for name, targets in graph().items():
        edges[whole(name)] |= {whole(target) for target in targets} - {whole(name)}
    assert not cycles(edges)


@pytest.mark.parametrize("leaf", ["adaptbench.schema", "adaptbench.errors"])
def test_a_leaf_imports_nothing_of_the_project(leaf):
    assert graph()[leaf] == set()


def test_the_package_imports_neither_programs_nor_analysis():
    outside = {
        f"{name}: {target}"
        for name, path in modules().items()
        for target in imported(path)
        if target.split(".")[0] in ("experiments", "analysis")
    }
    assert not outside


@pytest.mark.parametrize(("package", "registry"), [("methods", METHODS), ("tasks", TASKS)])
def test_no_file_outside_its_package_asks_for_a_concrete_class(package, registry):
    concrete = {kind.__name__ for kind in registry.values()}
    inside = SOURCE / "adaptbench" / package
    files = [path for folder in (SOURCE, PROGRAMS, ANALYSIS) for path in folder.rglob("*.py")]
    asking = {
        f"{path.relative_to(REPOSITORY)}:{node.lineno}"
        for path in files
        if inside not in path.parents
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass")
        if concrete & {name.id for name in ast.walk(node.args[1]) if isinstance(name, ast.Name)}
    }
    assert not asking


def test_only_metrics_speak_of_accuracy():
    """Elsewhere a score is a score, whatever a data set's metric is: comments, docstrings and texts included."""
    files = [path for folder in (SOURCE, ANALYSIS) for path in folder.rglob("*.py") if "metrics" not in path.parts]
    assert len(files) > 100
    speaking = {
        f"{path.relative_to(REPOSITORY)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if "accurac" in line.lower()
    }
    assert not speaking
