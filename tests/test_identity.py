"""A run's id names what its result depends on, by content: the same question has one id however it was asked."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM

from adaptbench.cell import prepare_cell
from adaptbench.config import register_schemas, resolve
from adaptbench.models import identity
from adaptbench.record import RunStore
from adaptbench.runner import run_cell
from experiments.commandline import CONF


@pytest.fixture
def cell(tmp_path, monkeypatch, model_folders):
    """cell(*arguments): a composed cell of a tiny T5 folder of its own."""
    folder = shutil.copytree(model_folders["t5"], tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    register_schemas()

    def composed(*arguments: str):
        GlobalHydra.instance().clear()
        fixed = ("model=local", f"model.path={folder}", "dataset=micro_rte", "seeds=[0]", "progress=false")
        with initialize_config_dir(CONF, version_base="1.3"):
            return resolve(compose("config", [*fixed, *arguments]))

    return composed


@pytest.fixture
def run_id(cell):
    def of(*arguments: str) -> str:
        return prepare_cell(cell(*arguments)).run_ids[0]

    return of


def other_weights(folder: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    with torch.no_grad():
        model.shared.weight.add_(torch.randn_like(model.shared.weight))
    model.save_pretrained(folder)


def test_other_weights_at_the_same_path_are_another_run(cell, tmp_path):
    config = cell("method=zero_shot", "limit=2", "output=out")
    (first,) = run_cell(prepare_cell(config))
    assert prepare_cell(config).missing == 0
    other_weights(tmp_path / "model")
    assert prepare_cell(config).missing == 1, "the record of the old weights must not answer"
    (second,) = run_cell(prepare_cell(config))
    assert first.run_id != second.run_id
    old, new = (RunStore(tmp_path / "out").path("predictions", record.run_id, ".parquet") for record in (first, second))
    assert old.read_bytes() != new.read_bytes()


def test_a_changed_tokenizer_is_another_run(run_id, tmp_path):
    before = run_id()
    file = tmp_path / "model" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    assert run_id() != before


def test_a_hub_revision_that_moved_is_another_run(run_id, monkeypatch):
    commits = {None: "a" * 40, "v1": "b" * 40}
    monkeypatch.setattr(identity, "hub_commit", lambda _, revision: commits[revision])
    place = "model.path=someone/model"
    before, tagged = run_id(place), run_id(place, "model.revision=v1")
    assert before != tagged
    commits["main"] = commits[None]
    assert run_id(place, "model.revision=main") == before, "a commit has one id under all of its names"
    commits[None] = "c" * 40
    assert run_id(place) != before


def test_changed_pretrained_vectors_are_another_run(run_id, tmp_path):
    folder, vectors = tmp_path / "vectors", {"l": torch.ones(3)}
    folder.mkdir()
    save_file(vectors, folder / "adapter.safetensors")
    arguments = ("method=t_few", f"recipe.pretrained_ia3={folder}")
    before = run_id(*arguments)
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert run_id("method=t_few", f"recipe.pretrained_ia3={tmp_path / 'elsewhere'}") == before
    save_file({"l": load_file(folder / "adapter.safetensors")["l"] * 2}, folder / "adapter.safetensors")
    assert run_id(*arguments) != before


def test_the_same_model_copied_elsewhere_is_the_same_run(run_id, tmp_path):
    shutil.copytree(tmp_path / "model", tmp_path / "deep" / "copy")
    assert run_id(f"model.path={tmp_path / 'deep' / 'copy'}") == run_id()


SAME = {  # arguments, and what means the same
    "the data set's own number of shots": (("dataset.shots=32",), ("dataset.shots=16", "shots=32")),
    "as many rows as there are": ((), ("limit=100000",)),
    "batch sizes of the evaluation": ((), ("eval_batch_size=3",)),
    "how many runs share a pass": ((), ("max_fused=1",)),
    "the size of a pass's logits": ((), ("model.logits_limit=1000000",)),
    "where the parts of a model are": ((), ("model.device_map=auto",)),
    "another way to write a path": ((), ("model.path=./deep/../model",)),
    "other settings of other methods": ((), ("recipe.training.lora.steps=7",)),
    "another label for the recipe": ((), ("recipe.name=mine",)),
    "zero-shot and shots": (("method=zero_shot",), ("method=zero_shot", "shots=3")),
    "zero-shot and draws": (("method=zero_shot",), ("method=zero_shot", "dataset.sampling=stratified")),
    "zero-shot and the recipe": (("method=zero_shot",), ("method=zero_shot", "recipe.batch_size=3")),
    "zero-shot and another recipe": (("method=zero_shot",), ("method=zero_shot", "recipe=ten_steps")),
    "in-context learning and losses": (("method=icl",), ("method=icl", "dataset.without_losses=[unlikelihood]")),
}


@pytest.mark.parametrize("name", SAME)
def test_the_same_question_has_the_same_id(run_id, tmp_path, name):
    (tmp_path / "deep").mkdir()
    first, second = SAME[name]
    assert run_id(*first) == run_id(*second)


OTHER = {
    "the numbers' format": "model.dtype=bfloat16",
    "the longest input": "model.max_length=100",
    "what happens to longer ones": "model.overlong=truncate",
    "what stands before an answer": "dataset.answer_delimiter=''",
    "shots": "shots=7",
    "rows": "limit=5",
    "the seed": "seeds=[1]",
    "the template": "template=all",
    "normalisation": "norm=none",
    "the batch size of training": "recipe.batch_size=3",
    "its losses": "dataset.without_losses=[unlikelihood]",
    "its steps": "recipe.training.ia3.steps=3",
    "the method": "method=lora",
    "the data": "dataset=micro_cb",
}


@pytest.mark.parametrize("name", OTHER)
def test_another_question_has_another_id(run_id, name):
    assert run_id() != run_id(OTHER[name])


def test_every_run_of_a_cell_has_an_id_of_its_own(cell):
    ids = prepare_cell(replace(cell(), seeds=[0, 1, 2])).run_ids
    assert len(set(ids)) == 3
