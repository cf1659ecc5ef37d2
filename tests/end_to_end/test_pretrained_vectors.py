"""The (IA)^3 vectors T-Few starts from: trained on a mixture of data sets, or released by the authors."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from adaptbench.methods.ia3 import IA3
from experiments import pretrain
from experiments.mixture import CAP, Mixture
from tests.factories import toy_task
from tests.programs import exit_code

ROWS = [{"text": f"{word} number {i}", "label": ("bad", "good")[i % 2]} for i in range(12) for word in ("fine", "poor")]


@pytest.fixture
def train(tmp_path, monkeypatch, model_folders):
    """Runs `experiments.pretrain` for (IA)^3 on a tiny T5 and a file of rows, and gives its exit code."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    inner = [
        f"model.path={model_folders['t5']}", f"dataset.train={rows}", f"dataset.evaluation={rows}",
        "dataset.shots=4", "dataset.labels={bad: 0, good: 1}",
    ]  # fmt: skip

    def call(*overrides: str) -> int:
        quoted = ",".join(f'"{override}"' for override in inner)
        own = ["models=[ia3]", "fast=true", "recipes.ia3.start=local", "recipes.ia3.mixture=[files]"]
        own.append(f"recipes.ia3.overrides=[{quoted}]")
        places = [f"recipes.ia3.output={tmp_path / 'vectors'}", f"checkpoints={tmp_path / 'checkpoints'}"]
        return exit_code(monkeypatch, pretrain, *own, *places, *overrides)

    return call


def test_vectors_are_trained_on_a_mixture_and_t_few_starts_from_them(train, tmp_path, backbones):
    assert train() == 0
    trained = load_file(tmp_path / "vectors" / "adapter.safetensors")
    assert trained
    assert any(not torch.equal(vector, torch.ones_like(vector)) for vector in trained.values())
    start = IA3(pretrained=str(tmp_path / "vectors")).prepare(backbones["t5"], seeds=(7,)).delta.state_of(0)
    assert all(torch.equal(start[name], vector) for name, vector in trained.items())
    provenance = json.loads((tmp_path / "vectors" / "provenance.json").read_text())
    assert provenance["recipe"]["mixture"] == ["files"]
    assert provenance["steps"] == 5


def test_the_same_seed_gives_the_same_vectors_and_another_seed_others(train, tmp_path):
    hashes = []
    for seed in (0, 0, 1):
        assert train(f"seed={seed}") == 0
        hashes.append(json.loads((tmp_path / "vectors" / "provenance.json").read_text())["sha256"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["recipes.ia3.mixture=[]"], "recipes.ia3.mixture=[]"),
        (["recipes.ia3.mixture=[nowhere]"], "nowhere"),
        (["models=[ia4]"], "models=['ia4']"),
        (["recipes.ia3.start=nowhere"], "nowhere"),
    ],
)
def test_a_bad_mixture_is_one_clear_line(train, capsys, overrides, says):
    assert train(*overrides) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert says in error[0]


def test_shares_follow_t0s_rule_and_batches_their_number():
    small, large = toy_task(20), toy_task(24, name="large")
    mixture = Mixture([small, large])
    assert mixture.shares == pytest.approx([20 / 44, 24 / 44])
    rows = [large.train[0]] * (CAP + 1)
    capped = Mixture([small, type(large)(**{**vars(large), "train": rows})])
    assert capped.shares == pytest.approx([40 / (40 + CAP), CAP / (40 + CAP)])  # two templates each
    assert mixture.batch(0, 3, 8) == mixture.batch(0, 3, 8) != mixture.batch(0, 4, 8)
    for prompt in mixture.batch(0, 3, 8):
        assert len(prompt.choices) == 1


def test_only_the_right_answer_is_learned():
    task = toy_task(6)
    by_input = {
        (template.name, template.render(row.uid, row.fields).input): row.label
        for row in task.train
        for template in task.templates
    }
    answers = ("yes", "no", "maybe not")
    for prompt in Mixture([task]).batch(1, 0, 16):
        assert prompt.choices == (answers[by_input[prompt.template, prompt.input]],)


def test_t_few_without_vectors_is_refused_before_a_model_is_loaded(call, capsys, tmp_path):
    arguments = ("method=t_few", f"recipe.pretrained_ia3={tmp_path / 'none'}", "model.path=/no/such/model")
    assert call(*arguments) == 2
    error = capsys.readouterr().err
    assert "no (IA)^3 vectors" in error
    assert "experiments.pretrain" in error
    assert call(arguments[0], arguments[1], "dry_run=true", "limit=4") == 0
    assert "To get first: method.pretrained=" in capsys.readouterr().out


def test_vectors_released_by_the_authors_are_a_start(backbones, tmp_path):
    backbone = backbones["t5"]
    released = {}
    generator = torch.Generator().manual_seed(3)
    for site in backbone.anatomy.linear("k", "v"):
        released[f"{site.path}.multi_lora_b"] = torch.rand(site.d_out, 1, generator=generator)
    for site in backbone.anatomy.linear("ff_out"):
        released[f"{site.path.removesuffix('wo')}wi_1.multi_lora_b"] = torch.rand(site.d_in, 1, generator=generator)
    torch.save(released, tmp_path / "official.pt")
    state = IA3(pretrained=str(tmp_path / "official.pt")).prepare(backbone, seeds=(0, 1)).delta.state_of(1)
    assert len(state) == len(released)
    for name, vector in released.items():
        ours = name.replace("wi_1", "wo").replace("multi_lora_b", "vector")
        assert np.array_equal(state[ours].ravel(), vector.ravel())
