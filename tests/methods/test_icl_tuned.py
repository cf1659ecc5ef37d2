"""In-context tuning: demonstrations before every training prompt, and before every prediction."""

from dataclasses import replace

import numpy as np
import pytest

from adaptbench.costs.storage import stored_bytes
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.errors import InputError
from adaptbench.methods.icl import InContextLearning
from adaptbench.methods.icl_tuned import TRAINABLE, InContextTuning
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.evaluate import evaluate
from adaptbench.tasks.choices import Choices
from tests.factories import recipe, toy_task

TASK = toy_task(9)
PROMPTS = evaluation_prompts(TASK, "random")


def likelihoods(method, backbone, shots=5, **changes):
    adaptation = method.adapt(backbone, TASK, [draw(TASK, 0, shots)], recipe(batch_size=2, **changes))
    (answers,) = evaluate(adaptation, PROMPTS, 4)
    return adaptation, np.concatenate([answer.log_likelihoods for answer in answers])


@pytest.fixture
def read(monkeypatch):
    """What every training prompt was read after."""
    found, encode = [], Choices.encode

    def watched(self, backbone, prompt, context=""):
        found.append((prompt, context))
        return encode(self, backbone, prompt, context)

    monkeypatch.setattr(Choices, "encode", watched)
    return found


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("delta", TRAINABLE)
def test_before_its_first_step_it_is_in_context_learning(exact, architecture, delta):
    method = InContextTuning(delta_method=delta, demonstrations=3, steps=1, learning_rate=0.0)
    _, tuned = likelihoods(method, exact[architecture])
    _, plain = likelihoods(InContextLearning(), exact[architecture], shots=3)
    assert np.allclose(tuned, plain, atol=1e-9, rtol=0)


def test_demonstrations_read_once_give_the_same(exact):
    method = InContextTuning(demonstrations=3, steps=3, learning_rate=0.1)
    _, naive = likelihoods(method, exact["llama"])
    _, shared = likelihoods(replace(method, cached=True), exact["llama"])
    _, plain = likelihoods(InContextLearning(), exact["llama"], shots=3)
    assert np.allclose(naive, shared, atol=1e-8, rtol=0)
    assert np.abs(naive - plain).max() > 1e-3, "it has learned something"


def test_a_training_prompt_never_stands_after_itself(exact, read):
    few_shot = draw(TASK, 0, 5)
    adaptation, _ = likelihoods(InContextTuning(demonstrations=4, steps=8), exact["llama"])
    trained = [(prompt, context) for prompt, context in read if prompt.uid in {e.uid for e in few_shot.examples}]
    contexts = [context for prompt, context in trained]
    assert len(contexts) >= 8 * 2
    for prompt, context in trained:
        assert context.count("\n\n") == 4
        assert prompt.input + prompt.delimiter + prompt.target not in context.split("\n\n")
    assert len(set(contexts)) > len(few_shot.examples), "drawn anew each time"
    assert adaptation.contexts[0].demonstrations == 4


def test_the_same_seed_draws_the_same(exact, read):
    method = InContextTuning(demonstrations=2, steps=4, learning_rate=0.1)
    _, first = likelihoods(method, exact["llama"])
    before = list(read)
    read.clear()
    _, again = likelihoods(method, exact["llama"])
    assert read == before
    assert np.array_equal(first, again)


def test_what_is_stored_is_what_is_counted(backbones: dict[str, Backbone], tmp_path):
    method = InContextTuning(name="icl_tuned", demonstrations=3, steps=1)
    adaptation, _ = likelihoods(method, backbones["llama"])
    written = method.save(adaptation, _made(tmp_path / "run"), 0)
    assert {file.name for file in (tmp_path / "run").iterdir()} == {
        "adapter.safetensors",
        "demonstrations.npy",
        "adapter_config.json",
    }
    tokens = len(adaptation.contexts[0].stored)
    assert stored_bytes(method, adaptation, tokens) == written


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"delta_method": "full_ft"}, "delta_method='full_ft'"), ({"demonstrations": 0}, "method.demonstrations=0")],
)
def test_bad_settings(settings, says):
    with pytest.raises(InputError, match=says):
        InContextTuning(**settings).check()


def test_an_encoder_cannot_share(backbones):
    with pytest.raises(InputError, match="cached"):
        InContextTuning(cached=True).check_model(backbones["t5"])


def _made(folder):
    folder.mkdir()
    return folder
