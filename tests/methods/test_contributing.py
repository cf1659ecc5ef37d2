"""The method written out in CONTRIBUTING.md works as it stands there."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adaptbench.data.fewshot import draw
from adaptbench.methods import METHODS
from tests.factories import recipe, toy_task

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def gain():
    code = re.search(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert code is not None
    exec(compile(code.group(1), "CONTRIBUTING.md", "exec"), {"__name__": "contributing"})
    yield METHODS["gain"]
    del METHODS["gain"]


def test_the_worked_example_trains_two_runs_apart(gain, backbones):
    method = replace(gain(name="gain"), steps=5, learning_rate=0.05)
    task = toy_task()
    fused = method.adapt(backbones["t5"], task, [draw(task, 1), draw(task, 2)], recipe())
    alone = method.adapt(backbones["t5"], task, [draw(task, 2)], recipe())
    assert fused.trainable == len(backbones["t5"].anatomy.linear("o", "ff_out"))
    for name, value in alone.delta.state_of(0).items():
        assert torch.allclose(fused.delta.state_of(1)[name], value, rtol=1e-4)
        assert (value != 1).all()
