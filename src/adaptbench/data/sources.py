"""Where tasks come from: the embedded world, files, parallel text, real data shipped with the package, or the hub.

A dataset is one YAML in conf/dataset/ (see `DatasetConfig`); this module turns it into a checked `TaskData`. One of
the hub may name local copies of its splits: those are read where they are, the hub and its cache only where not.
"""

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from adaptbench.data.example import Example, TaskData
from adaptbench.data.hub import Unavailable, hub_rows
from adaptbench.data.labels import shown_names
from adaptbench.data.parallel import cleaned, files_of, parallel_rows
from adaptbench.data.parts import is_there, read_part
from adaptbench.data.promptsource import load_promptsource
from adaptbench.data.readers import Malformed, Row, read_rows
from adaptbench.data.rows import to_examples
from adaptbench.data.templates import Template
from adaptbench.errors import InputError
from adaptbench.schema import DatasetConfig
from adaptbench.tasks import task_type

EVALUATION = "evaluation"  # dataset.development: the best state is chosen on the rows that are reported
SOURCES = ("microworld", "files", "shipped", "parallel", "hub")
SHIPPED = Path(__file__).parent.parent / "real"


def load_task(config: DatasetConfig) -> TaskData:
    """The task a dataset YAML describes.

    Raises:
        InputError: a missing file, column or package, a malformed row, or a label outside the declared ones.
    """
    if config.source == "microworld":
        return _from_microworld(config)
    if config.source not in SOURCES:
        raise InputError(f"dataset.source={config.source!r}: expected one of {', '.join(SOURCES)}")
    if config.source == "shipped":
        config = replace(config, source="files", folder=str(SHIPPED / config.folder))
    _check(config)
    templates = _templates(config) if config.skip_bad_rows else []  # they decide which rows are bad
    draws, skipped = _draws(config, templates)
    assert config.evaluation is not None
    train: list[Example] = []
    if config.train and _pool_wanted(config, draws):
        train, more = _split(config, "train", config.train, templates)
        skipped += more
    evaluation, more, split = _evaluation(config, templates)
    skipped += more
    development, held_out, source, more = _development(config, evaluation, templates)
    held = [*evaluation, *development]
    distinct = _distinct(config, train, held)
    dropped = {"repeated": len(train) - len(distinct)}
    if config.source == "parallel":
        distinct, left_out = cleaned(config.parallel, distinct, held)
        dropped |= left_out
    return TaskData(
        name=config.name,
        shots=config.shots or 0,
        train=distinct,
        evaluation=evaluation,
        templates=templates or _templates(config),
        metric=config.metric,
        type=task_type(config),
        draws=draws,
        sampling=config.sampling,
        development=development,
        held_out=held_out,
        development_split=source,
        answer_delimiter=config.answer_delimiter,
        evaluation_split=split,
        skipped=(*skipped, *more),
        dropped={reason: rows for reason, rows in dropped.items() if rows},
    )


def _check(config: DatasetConfig) -> None:
    if config.evaluation is None:
        what = "name a split" if config.source == "hub" else "name a file"
        raise InputError(f"dataset {config.name!r}: 'evaluation' must {what}")
    if config.source == "hub" and (config.path is None or config.train is None):
        raise InputError(f"dataset {config.name!r}: 'path' must name a hub data set, 'train' a split of it")
    if config.shots is None:
        raise InputError(f"dataset {config.name!r}: 'shots' must be given")
    for field, columns in config.columns.items():
        names = [columns] if isinstance(columns, str) else columns
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise InputError(f"dataset.columns.{field}={columns!r}: expected the name of a column, or a list of names")
    if unknown := sorted(set(config.local) - {"train", "development", "evaluation", "stand_in"}):
        raise InputError(f"dataset.local: unknown {unknown[0]!r}, expected train, development, evaluation or stand_in")
    if (config.stand_in is None) != ("stand_in" not in config.local):
        raise InputError(f"dataset {config.name!r}: 'stand_in' names a split, 'local.stand_in' its file: both or none")


def _from_microworld(config: DatasetConfig) -> TaskData:
    from adaptbench.microworld import tasks  # generating the world takes a moment: only when asked for

    if config.name not in tasks.names() + tasks.names(split="development"):
        raise InputError(f"dataset.name={config.name!r}: not a task of the embedded world")
    task = tasks.load(config.name)
    evaluation = to_examples(config, task.evaluation, "evaluation")[0]
    if isinstance(config.development, str) and config.development != EVALUATION:
        raise InputError(f"dataset.development={config.development!r}: expected a number of rows or {EVALUATION}")
    development, held_out, source, _ = _development(config, evaluation, ())
    return TaskData(
        name=config.name,
        shots=config.shots or task.shots,
        train=to_examples(config, task.train, "train")[0],
        evaluation=evaluation,
        templates=[
            Template(config.name, entry["name"], entry["jinja"], entry["answer_choices"], (), config.answer_delimiter)
            for entry in task.templates
        ],
        metric=config.metric,
        type=task_type(config),
        sampling=config.sampling,
        development=development,
        held_out=held_out,
        development_split=source,
        answer_delimiter=config.answer_delimiter,
    )


def _evaluation(config: DatasetConfig, templates: Sequence[Template]) -> tuple[list[Example], list[str], str]:
    """The evaluation split, the rows left out of it, and what it is.

    A stand-in is read only where the split itself can be had from nowhere, and is never taken for it.
    """
    assert config.evaluation is not None
    labelled = not config.unlabelled
    try:
        return *_split(config, "evaluation", config.evaluation, templates, labelled), config.evaluation
    except Unavailable:
        if config.stand_in is None or not is_there(_file(config, config.local["stand_in"])):
            raise
        split = f"{config.stand_in} in place of {config.evaluation}"
        return *_split(config, "stand_in", config.stand_in, templates, labelled), split


def _development(
    config: DatasetConfig, evaluation: list[Example], templates: Sequence[Template]
) -> tuple[list[Example], int, str | None, list[str]]:
    """Development rows of every seed, or how many to hold out of each draw; what they are, and rows left out."""
    named = config.development
    if named is None:
        return [], 0, None, []
    if isinstance(named, int):
        return [], named, f"{named:,} training rows", []
    if named == EVALUATION and config.unlabelled:
        raise InputError(f"dataset.development={EVALUATION}: dataset {config.name!r} has no labels there")
    if named == EVALUATION:
        return evaluation, 0, "the evaluated rows themselves (optimistic)", []
    rows, skipped = _split(config, "development", named, templates)
    return rows, 0, named, skipped


def _split(
    config: DatasetConfig, kind: str, named: str, templates: Sequence[Template], labelled: bool = True
) -> tuple[list[Example], list[str]]:
    """A split, and the rows left out of it: from files, or from the hub unless a local copy is there."""
    path = _file(config, config.local.get(kind, ".") if config.source == "hub" else named)
    if config.source == "hub" and not is_there(path):
        return to_examples(config, hub_rows(config, named), f"{config.path}:{named}", labelled, templates)
    return to_examples(config, _rows_of_file(config, path), str(path), labelled, templates)


def _rows_of_file(config: DatasetConfig, path: Path) -> list[Row | Malformed]:
    there = all(map(Path.is_file, files_of(path, config.parallel))) if config.source == "parallel" else is_there(path)
    if config.fetch and not there:
        raise InputError(f"dataset {config.name!r}: no such file: {path}; {config.fetch}")
    if config.source == "parallel":
        return parallel_rows(path, config.parallel, config.name)
    return read_part(path, config.name, config.header)


def _distinct(config: DatasetConfig, train: list[Example], evaluation: Sequence[Example]) -> list[Example]:
    """The first training row of every content that no evaluation row has, as far as `deduplicate` looks at it."""
    if not config.deduplicate:
        return train

    def content(example: Example) -> tuple[str, ...]:
        for name in config.deduplicate:
            if name not in example.fields:
                found = ", ".join(example.fields)
                raise InputError(f"dataset.deduplicate={name!r}: no such field in {example.origin} (fields: {found})")
        return tuple(" ".join(str(example.fields[name]).split()) for name in config.deduplicate)

    seen = {content(example) for example in evaluation}
    kept = []
    for example in train:
        if (text := content(example)) not in seen:
            seen.add(text)
            kept.append(example)
    return kept


def _pool_wanted(config: DatasetConfig, draws: dict[int, list[Example]]) -> bool:
    """Ready-made draws make the training pool superfluous: it is read where it is at hand, not fetched."""
    if config.source != "hub" or not draws:
        return True
    return "train" in config.local and is_there(_file(config, config.local["train"]))


def _draws(config: DatasetConfig, templates: Sequence[Template]) -> tuple[dict[int, list[Example]], list[str]]:
    """Few-shot draws given as files, one per seed (`draws` is a path with `{seed}` in it), and the rows left out.

    A hub data set without them is drawn from its training split, which for the paper's data sets gives the same rows.
    """
    if config.draws is None:
        return {}, []
    if "{seed}" not in config.draws:
        raise InputError(f"dataset.draws={config.draws!r}: expected a path with {{seed}} in it")
    pattern = _file(config, config.draws)
    before, _, after = pattern.name.partition("{seed}")
    found, skipped = {}, []
    for file in sorted(pattern.parent.glob(f"{glob.escape(before)}*{glob.escape(after)}")):
        seed = file.name.removeprefix(before).removesuffix(after)
        if seed.isdigit():
            rows = read_rows(file, config.name)
            found[int(seed)], more = to_examples(config, rows, str(file), templates=templates)
            skipped += more
    if not found and config.source != "hub":
        raise InputError(f"dataset {config.name!r}: no few-shot draw matches {pattern}")
    return found, skipped


def _templates(config: DatasetConfig) -> list[Template]:
    """The YAML's own templates, or promptsource's: as `prompts` says, else its own where it has some."""
    kind = config.prompts or ("own" if config.templates else "promptsource")
    if kind not in ("own", "promptsource"):
        raise InputError(f"dataset.prompts={kind!r}: expected own or promptsource")
    names = tuple(shown_names(config.labels))
    if kind == "promptsource" and config.promptsource is not None:
        path, skip = _file(config, config.promptsource), config.promptsource_skip
        templates = load_promptsource(
            path, config.name, skip=skip, label_names=names, delimiter=config.answer_delimiter
        )
    elif kind == "promptsource":
        templates = []
    else:
        templates = [_own(config, name, entry, names) for name, entry in config.templates.items()]
    if not templates:
        raise InputError(f"dataset {config.name!r}: no templates ('templates' or 'promptsource' must give some)")
    for template in templates:
        template.check()
    return templates


def _own(config: DatasetConfig, name: str, entry: Any, label_names: tuple[str, ...]) -> Template:
    if not isinstance(entry, dict) or not all(isinstance(part, str) for part in entry.values()):
        raise InputError(f"dataset.templates.{name}={entry!r:.60}: expected its parts by name, each a text")
    template = task_type(config).template(config, name, entry, label_names)
    if not label_names and any("label_names" in text for text in entry.values()):
        raise InputError(
            f"dataset.templates.{name} uses label_names: dataset.labels must declare the labels as the files write "
            "them, such as {bad: 0, good: 1}"
        )
    return template


def _file(config: DatasetConfig, path: str) -> Path:
    """A path of a dataset's YAML: relative ones start at its `folder`."""
    return Path(config.folder).expanduser() / Path(path).expanduser()
