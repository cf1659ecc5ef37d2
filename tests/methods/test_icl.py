"""Demonstrations read once, or one per pass, give what reading them plainly gives."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from adaptbench.costs.flops import StepPrices
from adaptbench.costs.ledger import CostLedger
from adaptbench.costs.meta import MetaRun, meta_batch
from adaptbench.data.batching import Shape, collate, encode
from adaptbench.data.fewshot import draw
from adaptbench.errors import InputError
from adaptbench.methods.icl import InContextLearning, last_that_fit
from adaptbench.scoring.evaluate import evaluate, readings
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.scoring.shared_context import shared_context
from adaptbench.training.stream import evaluation_prompts
from tests.conftest import ARCHITECTURES
from tests.factories import recipe, toy_task

DECODERS = [architecture for architecture in ARCHITECTURES if architecture != "t5"]


def scores_of(method, backbone, shots=5, seeds=(0, 1)):
    task = toy_task(9)
    prompts = evaluation_prompts(task, "random")
    adaptation = method.adapt(backbone, task, [draw(task, seed, shots) for seed in seeds], recipe())
    return adaptation, prompts, evaluate(adaptation, prompts, batch_size=4)


@pytest.mark.parametrize("architecture", DECODERS)
def test_demonstrations_read_once_give_the_scores_of_reading_them_every_time(backbones, architecture):
    _, _, naive = scores_of(InContextLearning(), backbones[architecture])
    adaptation, prompts, shared = scores_of(InContextLearning(cached=True), backbones[architecture])
    for plain_run, shared_run in zip(naive, shared, strict=True):
        for plain, once in zip(plain_run, shared_run, strict=True):
            assert np.allclose(plain.log_likelihoods, once.log_likelihoods, atol=1e-5)
    assert all(reading.shared and len(reading.context) > 20 for reading in readings(adaptation, prompts, 0))


@pytest.mark.parametrize("architecture", DECODERS)
def test_the_price_of_reading_after_a_shared_context_is_what_is_counted(backbones, architecture):
    backbone, before = backbones[architecture].on_meta(), 23
    shape = Shape(rows=2, source=7, choices=3, target=4)
    with shared_context(backbone, (3,) * before), FlopCounterMode(display=False) as counter:
        token_log_probabilities(backbone, replace(meta_batch(shape), already_read=before))
    priced = StepPrices(MetaRun.of(InContextLearning(), backbone, recipe())).predict_after(shape, before)
    assert priced == counter.get_total_flops()


def test_sharing_saves_the_arithmetic_of_the_demonstrations(backbones):
    backbone = backbones["llama"]
    bills = {}
    for method in (InContextLearning(), InContextLearning(cached=True)):
        adaptation, prompts, _ = scores_of(method, backbone, shots=8)
        bills[method.cached] = CostLedger(method, backbone, recipe()).bill(
            adaptation, 0, readings(adaptation, prompts, 0)
        )
    assert bills[False].flops_adapt == 0 < bills[True].flops_adapt
    assert bills[False].flops_predict > 5 * bills[True].flops_predict


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_an_ensemble_averages_the_probabilities_of_one_shot_passes(backbones, architecture):
    backbone, task = backbones[architecture], toy_task(9)
    adaptation, prompts, (run,) = scores_of(InContextLearning(strategy="ensemble"), backbone, shots=3, seeds=(0,))
    for prompt, score in zip(prompts, run, strict=True):
        one_shot = []
        for example in draw(task, 0, 3).examples:
            shown = task.template(prompt.template).render(example.uid, example.fields)
            text = f"{shown.input} {shown.choices[shown.label]}\n\n"
            context = tuple(backbone.tokenizer(text, add_special_tokens=False)["input_ids"])
            row = encode(backbone, prompt, context)
            with torch.inference_mode():
                one_shot.append(token_log_probabilities(backbone, collate([row], backbone.pad_id)).sum(2)[0])
        expected = torch.stack(one_shot).exp().mean(0).log()
        assert np.allclose(score.log_likelihoods, expected, atol=1e-5)
    assert adaptation.contexts[0].demonstrations == 3


def test_demonstrations_come_in_the_template_of_the_prompt(backbones):
    tokenizer = backbones["llama"].tokenizer
    marker = tokenizer("given")["input_ids"][-1]
    adaptation, prompts, _ = scores_of(InContextLearning(), backbones["llama"])
    for reading in readings(adaptation, prompts, 0):
        expected = 5 if prompts[reading.prompt].template == "long" else 0
        assert reading.context.count(marker) == expected


def test_an_encoder_cannot_share_its_demonstrations(backbones):
    with pytest.raises(InputError, match="looks both ways"):
        scores_of(InContextLearning(cached=True), backbones["t5"])


def test_unknown_strategies_are_refused():
    with pytest.raises(InputError, match=r"method\.strategy='vote': expected concatenated or ensemble"):
        InContextLearning(strategy="vote")


def test_whole_demonstrations_are_dropped_from_the_front():
    demonstrations = [(1,) * 4, (2,) * 3, (3,) * 2]
    assert last_that_fit(demonstrations, 5) == [(2,) * 3, (3,) * 2]
    assert last_that_fit(demonstrations, 4) == [(3,) * 2]
    assert last_that_fit(demonstrations, 1) == []
