"""Forgetting: the loss of continuing general text after tuning, minus the same before."""

from dataclasses import replace

import pytest
import torch

from adaptbench.data.fewshot import draw
from adaptbench.data.templates import Prompt
from adaptbench.methods import METHODS
from adaptbench.methods.icl import InContextLearning
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.scoring import forgetting as module
from adaptbench.scoring.forgetting import forgetting, nats_per_token, passages
from tests.factories import recipe, toy_task

TEXTS = [("the cat sat on the mat and", "it was a good answer"), ("a dog ran to the house", "we can say yes it is")]
PROMPTS = [Prompt(str(n), "passage", first, (second,), 0) for n, (first, second) in enumerate(TEXTS)]
TASK = toy_task(6)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(module, "passages", lambda _path: PROMPTS)


def adapted(kind, backbone, seeds=(0, 1, 2), **settings):
    method = replace(METHODS[kind](), steps=4, learning_rate=0.1, scale_parameter=False, **settings)
    return method.adapt(backbone, TASK, [draw(TASK, seed, 4) for seed in seeds], recipe(batch_size=2))


def test_the_loss_is_the_models_own(exact):
    """Per token of the second halves, by transformers' forward pass on the joined text."""
    backbone = exact["llama"]
    total, tokens = 0.0, 0
    for first, second in TEXTS:
        before, whole = (backbone.tokenizer(text)["input_ids"] for text in (first, f"{first} {second}"))
        with torch.no_grad():
            log_p = backbone.model(torch.tensor([whole])).logits[0].log_softmax(-1)
        for place in range(len(before), len(whole)):
            total -= log_p[place - 1, whole[place]].item()
            tokens += 1
    (ours,) = nats_per_token(ZeroShot().prepare(backbone, (0,)), PROMPTS, 4)
    assert ours == pytest.approx(total / tokens, abs=1e-9)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("kind", ["ia3", "lora", "prefix", "prompt"])
def test_fused_runs_forget_what_each_would_alone(exact, architecture, kind):
    base = exact[architecture]
    together = forgetting(adapted(kind, base), base, "x", 4)
    for run, seed in enumerate((0, 1, 2)):
        assert forgetting(adapted(kind, base, (seed,)), base, "x", 4) == pytest.approx([together[run]], abs=1e-6)
    assert max(map(abs, together)) > 1e-3


def test_full_fine_tuning_is_compared_with_the_model_before(exact):
    base = exact["llama"]
    (forgotten,) = forgetting(adapted("full_ft", base, (0,)), base, "x", 4)
    (again,) = forgetting(adapted("full_ft", base, (0,)), base, "x", 4)
    assert forgotten == again
    assert abs(forgotten) > 1e-3


def test_what_keeps_the_weights_forgets_nothing(exact):
    base = exact["llama"]
    in_context = InContextLearning().adapt(base, TASK, [draw(TASK, seed, 4) for seed in (0, 1)], recipe())
    assert forgetting(in_context, base, "x", 4) == [0.0, 0.0]
    assert forgetting(ZeroShot().prepare(base, (0,)), base, "x", 4) == [0.0]


def test_demonstrations_are_left_out(exact):
    base = exact["llama"]
    untrained = replace(METHODS["icl_tuned"](), steps=1, learning_rate=0.0, demonstrations=2)
    tuned = untrained.adapt(base, TASK, [draw(TASK, 0, 4)], recipe(batch_size=2))
    assert forgetting(tuned, base, "x", 4) == pytest.approx([0.0], abs=1e-9)


def test_the_passages(monkeypatch):
    monkeypatch.undo()
    prose, stories = passages("HuggingFaceTB/any"), passages("microworld:micro_t0")
    assert (len(prose), len(stories)) == (50, 200)
    for prompt in (*prose, *stories):
        (rest,) = prompt.choices
        assert abs(len(prompt.input.split()) - len(rest.split())) <= 1
    assert 40_000 < sum(len(prompt.input) + len(prompt.choices[0]) for prompt in prose) < 50_000
    assert passages("microworld:micro_gpt_s") == stories
