"""Data sets as their YAML describes them."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from adaptbench.config import register_schemas, resolve
from adaptbench.data.example import TaskData
from adaptbench.data.sources import load_task
from adaptbench.schema import DatasetConfig

CONF = Path(__file__).parents[2] / "conf"


def configuration(name: str, *overrides: str) -> DatasetConfig:
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(compose("config", [f"dataset={name}", *overrides])).dataset


@pytest.fixture(scope="module")
def tasks(real_data):
    """A task as its YAML describes it, read once."""
    loaded: dict[str, TaskData] = {}

    def get(name: str) -> TaskData:
        if name not in loaded:
            loaded[name] = load_task(configuration(name, f"dataset.folder={real_data}"))
        return loaded[name]

    return get
