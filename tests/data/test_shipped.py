"""Real data that come with the package: what they hold, that they need nothing else, and where they are from."""

import json
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from adaptbench.data.fewshot import draw
from adaptbench.data.sources import SHIPPED, load_task
from adaptbench.errors import InputError
from experiments.commandline import REPOSITORY
from experiments.ship_data import FIELDS, SEEDS, ship
from tests.data.conftest import configuration

CLASSES = {"sms_spam": 2, "clinc_domain": 10, "sci_cite": 3, "copa": 2}
NAMES = list(FIELDS)


@pytest.fixture
def nothing_at_hand(tmp_path, monkeypatch):
    """A fresh machine: no folder of data, and another working directory."""
    monkeypatch.setenv("ADAPTBENCH_DATA", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_draws_and_evaluation_rows_are_there_on_a_fresh_machine(nothing_at_hand, name):
    task = load_task(configuration(f"open_{name}"))
    assert sorted(task.draws) == sorted(SEEDS)
    assert len(task.evaluation) == (100 if name == "copa" else 300)
    labels = Counter(example.label for example in task.evaluation)
    if name != "copa":
        assert labels == dict.fromkeys(range(CLASSES[name]), 300 // CLASSES[name])
    evaluated = {content(example.fields, name) for example in task.evaluation}
    assert len(evaluated) == len(task.evaluation)
    for seed in SEEDS:
        examples = draw(task, seed).examples
        assert len(examples) == 32
        assert {example.label for example in examples} == set(range(CLASSES[name]))
        assert not {content(example.fields, name) for example in examples} & evaluated
    with pytest.raises(InputError, match="no few-shot draw for seed 7"):
        draw(task, 7)


def content(fields, name):
    return tuple(fields[field].strip() for field in FIELDS[name])


def labelled(examples, name):
    return [(content(example.fields, name), example.label) for example in examples]


@pytest.mark.parametrize("name", NAMES)
def test_every_row_reads_in_every_template(nothing_at_hand, name):
    task = load_task(configuration(f"open_{name}"))
    for template in task.templates:
        for example in [*task.evaluation, *(example for seed in SEEDS for example in task.draws[seed])]:
            prompt = template.render(example.uid, example.fields)
            assert len(prompt.choices) == CLASSES[name]


@pytest.mark.parametrize("name", NAMES)
def test_the_program_makes_the_shipped_files_again(tmp_path, monkeypatch, real_data, name):
    monkeypatch.setenv("ADAPTBENCH_DATA", str(real_data))
    assert ship(name, tmp_path) == sum(file.stat().st_size for file in (SHIPPED / name).iterdir())
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in (SHIPPED / name).iterdir()}
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (SHIPPED / name / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_set_asks_as_the_full_one_does(real_data, name):
    """The same draws in the same order, evaluation rows out of the same part, the same templates."""
    whole = load_task(configuration(name, f"dataset.folder={real_data}"))
    part = load_task(configuration(f"open_{name}"))
    assert [(t.name, t.jinja, t.answer_choices) for t in part.templates] == [
        (t.name, t.jinja, t.answer_choices) for t in whole.templates
    ]
    assert set(labelled(part.evaluation, name)) <= set(labelled(whole.evaluation, name))
    for seed in SEEDS:
        assert labelled(draw(part, seed).examples, name) == labelled(draw(whole, seed).examples, name)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_rows_are_no_single_class(name):
    """`limit` takes rows from the front."""
    task = load_task(configuration(f"open_{name}"))
    for rows in (task.evaluation[:32], draw(task, 0).examples[-8:]):
        assert len({example.label for example in rows}) >= min(CLASSES[name], 3)


def test_without_its_files_the_program_says_which_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("ADAPTBENCH_DATA", str(tmp_path))
    for name in NAMES:
        with pytest.raises(InputError, match=str(tmp_path)):
            ship(name, tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_they_are_small_and_every_folder_says_whose_it_is():
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 500_000
    assert {file.relative_to(SHIPPED).parts[0] for file in files} == {*NAMES, "prose", "SOURCES.md", "LICENSES"}
    said = (SHIPPED / "SOURCES.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in said.splitlines() if line.startswith("| `")]
    assert {row[1].strip(" `") for row in rows} == set(NAMES)
    assert all(any(licence in row[5] for licence in ("CC BY", "Apache-2.0", "BSD")) for row in rows)
    assert all(f"LICENSES/{file.name}" in said for file in (SHIPPED / "LICENSES").iterdir())


def test_the_wheel_takes_them_along():
    if not (REPOSITORY / "pyproject.toml").is_file():
        pytest.skip("an installed package, not the repository")
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    package = SHIPPED.parent
    taken = {file for pattern in declared["adaptbench"] for file in package.glob(pattern) if file.is_file()}
    assert {file for file in SHIPPED.rglob("*") if file.is_file()} <= taken


def test_rows_keep_what_templates_read_and_where_they_are_from():
    for name, fields in FIELDS.items():
        for file in (SHIPPED / name).iterdir():
            for line in file.read_text(encoding="utf-8").splitlines():
                assert list(json.loads(line)) == ["idx", *fields, "label"]


def test_a_data_set_that_is_not_shipped_is_one_clear_line():
    with pytest.raises(InputError, match=r"no such file: .*real/nothing/evaluation.jsonl"):
        load_task(configuration("open_copa", "dataset.folder=nothing", "dataset.draws=null"))


def test_the_folder_is_found_from_the_package_itself():
    import adaptbench

    assert Path(adaptbench.__file__).parent / "real" == SHIPPED
