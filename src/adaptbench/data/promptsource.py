"""Templates straight from promptsource's YAML files, without the package."""

from collections.abc import Collection
from pathlib import Path

import yaml

from adaptbench.data.templates import Template
from adaptbench.errors import InputError

REPOSITORY = "https://raw.githubusercontent.com/bigscience-workshop/promptsource/main/promptsource/templates"


class _Loader(yaml.SafeLoader):
    """Reads promptsource's custom tags as plain mappings, so that no class of theirs is needed."""


_Loader.add_multi_constructor("!Template", lambda loader, _suffix, node: loader.construct_mapping(node, deep=True))


def load_promptsource(
    path: Path,
    dataset: str,
    *,
    original_only: bool = True,
    free_text: bool = False,
    skip: Collection[str] = (),
    label_names: tuple[str, ...] = (),
    delimiter: str = " ",
) -> list[Template]:
    """Templates of a promptsource `templates.yaml`, in file order.

    Args:
        original_only: keep those that ask the dataset's original task, as T0 and T-Few do.
        free_text: keep also those without answer choices, which can be rendered and not be scored.
        skip: names to leave out; every one must exist.
    """
    if not path.is_file():
        raise InputError(f"dataset {dataset!r}: no templates at {path}; fetch them with: {_command(path)}")
    try:
        document = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
        entries = list(document["templates"].values())
        known = {entry["name"] for entry in entries}
        original = {entry["name"]: bool((entry.get("metadata") or {}).get("original_task")) for entry in entries}
        texts = [(str(entry["name"]), entry["jinja"], entry.get("answer_choices") or "") for entry in entries]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"dataset {dataset!r}: cannot read templates {path}: {_one_line(error)}") from error
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"dataset {dataset!r}: {path} is not a promptsource file ('templates' with name and jinja each)"
        ) from error
    if unknown := sorted(set(skip) - known):
        raise InputError(f"dataset.promptsource_skip: {path} has no template {unknown[0]!r}")
    for name, jinja, choices in texts:
        if not isinstance(jinja, str) or not isinstance(choices, str):
            raise InputError(f"dataset {dataset!r}: {path}, template {name!r}: jinja and answer_choices must be text")
    return [
        Template(dataset, name, jinja, choices, label_names, delimiter)
        for name, jinja, choices in texts
        if name not in skip and (free_text or choices) and (not original_only or original[name])
    ]


def _command(path: Path) -> str:
    """How to get the file: promptsource keeps the same folders."""
    parts = path.parts
    inside = "/".join(parts[parts.index("promptsource") + 1 :]) if "promptsource" in parts else f"<dataset>/{path.name}"
    return f"curl -fsSL --create-dirs -o {path} {REPOSITORY}/{inside}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
