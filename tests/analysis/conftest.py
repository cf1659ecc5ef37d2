"""A made-up experiment with every method."""

import pytest

from analysis.collect import load
from analysis.summary import summarise
from tests.analysis.synthetic import write_experiment


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_experiment(tmp_path_factory.mktemp("made_up"))


@pytest.fixture(scope="module")
def summary(folder):
    return summarise(load(folder))
