"""Compositions are kept between calls, and never where anything that they follow from has changed."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from adaptbench.config import as_config, register_schemas
from adaptbench.launch import compositions
from adaptbench.launch.compositions import cache_folder, compose_all
from experiments.commandline import CONF

CELLS = [["method=ia3", "seeds=[0,1]"], ["method=lora"]]


class Composer:
    """Composes cells as a sweep does, and counts how many."""

    calls = 0

    def __call__(self, overrides):
        self.calls += 1
        return compose("config", list(overrides))


@pytest.fixture
def composer(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    GlobalHydra.instance().clear()
    register_schemas()
    with initialize_config_dir(CONF, version_base="1.3"):
        yield Composer()


def test_a_second_call_composes_nothing_and_gets_the_same(composer):
    first = compose_all(CELLS, composer, [Path(CONF)], [])
    second = compose_all(CELLS, composer, [Path(CONF)], [])
    assert composer.calls == len(CELLS)
    assert second == first == [as_config(compose("config", cell)) for cell in CELLS]


def test_other_overrides_yaml_or_code_are_composed_anew(composer, tmp_path, monkeypatch):
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "own.yaml").write_text("a: 1\n")

    def again(cells=CELLS, common=()):
        before = composer.calls
        compose_all(cells, composer, [Path(CONF), folder], common)
        return composer.calls - before

    assert again() == 2
    assert again() == 0
    assert again(cells=CELLS[:1]) == 1
    assert again(common=["hydra.verbose=false"]) == 2
    (folder / "own.yaml").write_text("a: 2\n")
    assert again() == 2
    monkeypatch.setattr(compositions, "version", lambda name: "another")
    assert again() == 2


def test_another_value_in_the_environment_is_composed_anew(composer, tmp_path, monkeypatch):
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "own.yaml").write_text("a: ${oc.env:OWN_FOLDER,.}\n")
    by_override = [["name=${oc.env:OWN_NAME}"]]
    for value in ("first", "second"):
        monkeypatch.setenv("OWN_FOLDER", value)
        monkeypatch.setenv("OWN_NAME", value)
        compose_all(CELLS[:1], composer, [folder], [])
        (config,) = compose_all(by_override, composer, [Path(CONF)], [])
        assert config.name == value
    assert composer.calls == 4
    compose_all(CELLS[:1], composer, [folder], [])
    assert composer.calls == 4


def test_a_damaged_file_is_composed_again(composer):
    compose_all(CELLS, composer, [Path(CONF)], [])
    (kept,) = (cache_folder() / "composed").glob("*.pickle")
    kept.write_bytes(b"no pickle")
    assert len(compose_all(CELLS, composer, [Path(CONF)], [])) == 2
    assert composer.calls == 4


def test_a_cache_that_cannot_be_written_costs_nothing(composer, tmp_path, monkeypatch):
    (tmp_path / "taken").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    assert len(compose_all(CELLS, composer, [Path(CONF)], [])) == 2


def test_old_sweeps_are_dropped(composer, monkeypatch):
    monkeypatch.setattr(compositions, "KEPT", 2)
    for limit in range(1, 5):
        compose_all([[f"limit={limit}"]], composer, [Path(CONF)], [])
    assert len(list((cache_folder() / "composed").glob("*.pickle"))) == 2
