"""Prequential selection: the learning rate that predicts the next shots best, and what finding it costs."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from adaptbench.costs.ledger import CostLedger
from adaptbench.data.fewshot import FewShotSet, draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.methods.selection import Trial, prequential
from adaptbench.runner import _selected
from adaptbench.scoring.evaluate import evaluate, readings
from adaptbench.training.log import TrainingLog
from tests.factories import recipe, toy_task

TASK = toy_task(16)
RATES = [0.003, 0.01, 0.03]
METHOD = replace(METHODS["ia3"](), steps=4, learning_rate=0.01, select="prequential", candidates=[0.3, 1.0, 3.0])


def shots(seeds, count=8):
    return [draw(TASK, seed, count) for seed in seeds]


def test_the_smallest_sum_of_losses_wins_in_every_run(backbones):
    """Two runs whose best rates differ; what is predicted is every shot that was not trained on, once."""
    seen = []

    def train_on(parts, rate):
        seen.append((rate, [len(part.examples) for part in parts]))
        best = torch.tensor([0.01, 0.03])
        losses = lambda batches: (rate - best).abs() + torch.tensor([len(batches[0]), 0.0]) * 0  # noqa: E731
        return Trial(backbones["llama"], TrainingLog(shapes=[[], []]), losses)

    found = prequential(RATES, train_on, TASK, shots((0, 1)), "random", batch_size=3)
    assert found.rates == [0.01, 0.03]
    assert seen == [(rate, [count] * 2) for rate in RATES for count in (2, 4)]
    assert [sum(shape.rows for shape in run) for run in found.predicted] == [3 * 6, 3 * 6]
    assert np.allclose(found.nats[0.003], [6 * 0.007, 6 * 0.027], atol=1e-6)


def test_a_rate_that_diverges_is_never_chosen(backbones):
    def train_on(parts, rate):
        return Trial(
            backbones["llama"],
            TrainingLog(shapes=[[]]),
            lambda _: torch.tensor([float("nan") if rate > 0.01 else rate]),
        )

    assert prequential(RATES, train_on, TASK, shots((0,)), "random", 4).rates == [0.003]


def test_too_few_shots_are_refused(backbones):
    with pytest.raises(InputError, match="3 shots, expected at least 4"):
        prequential(RATES, lambda *_: None, TASK, shots((0,), 3), "random", 4)


@pytest.mark.parametrize("architecture", ["llama", "t5"])
def test_the_log_loss_is_that_of_the_choices(exact, architecture):
    """-log softmax over choices of the mean log-probability per token, as an adaptation answers after training."""
    few_shot, found = shots((0,))[0], []
    method = replace(METHOD, candidates=[1.0])

    adaptation = method.adapt(exact[architecture], TASK, [few_shot], recipe(batch_size=2), template="short")
    for start, stop in ((2, 4), (4, 8)):
        part = FewShotSet(0, few_shot.examples[:start])
        trained = replace(method, select="none").adapt(exact[architecture], TASK, [part], recipe(batch_size=2), "short")
        following = [TASK.template("short").render(e.uid, e.fields, e.origin) for e in few_shot.examples[start:stop]]
        (answers,) = evaluate(trained, following, 8)
        for answer in answers:
            beta = torch.tensor(answer.log_likelihoods) / torch.tensor(answer.tokens)
            found.append(-beta.log_softmax(0)[int(answer.prompt.label)].item())
    assert np.isclose(adaptation.log.nats[0][0.01], sum(found), atol=1e-6)


def test_fused_runs_choose_and_learn_as_each_would_alone(exact):
    prompts = evaluation_prompts(TASK, "random")
    wild = replace(METHOD, steps=6, learning_rate=0.3, candidates=[0.01, 0.1, 1.0])
    fused = wild.adapt(exact["llama"], TASK, shots((0, 1, 2)), recipe(batch_size=2))
    together = evaluate(fused, prompts, 12)
    for run, few_shot in enumerate(shots((0, 1, 2))):
        alone = wild.adapt(exact["llama"], TASK, [few_shot], recipe(batch_size=2))
        assert alone.log.selected == [fused.log.selected[run]]
        for one, other in zip(evaluate(alone, prompts, 4)[0], together[run], strict=True):
            assert np.allclose(one.log_likelihoods, other.log_likelihoods, atol=1e-8, rtol=0)


def test_the_bill_has_every_candidate(backbones):
    backbone = backbones["llama"]
    plain = replace(METHOD, select="none").adapt(backbone, TASK, shots((0,)), recipe(batch_size=2))
    chosen = METHOD.adapt(backbone, TASK, shots((0,)), recipe(batch_size=2))
    assert len(chosen.log.shapes[0]) == METHOD.training_steps(recipe(batch_size=2), 8) == 7 * len(plain.log.shapes[0])
    bills = []
    for method, adaptation in ((replace(METHOD, select="none"), plain), (METHOD, chosen)):
        ledger = CostLedger(method, backbone, recipe(batch_size=2))
        bills.append(ledger.bill(adaptation, 0, readings(adaptation, evaluation_prompts(TASK, "random"), 0)))
    prices = CostLedger(METHOD, backbone, recipe(batch_size=2))._prices
    expected = sum(map(prices.train, chosen.log.shapes[0])) + sum(map(prices.predict, chosen.log.predicted[0]))
    assert bills[1].flops_adapt == expected > 6 * bills[0].flops_adapt
    assert bills[1].flops_predict == bills[0].flops_predict


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("ia3", {"select": "best"}, "method.select='best': expected none or prequential"),
        ("ia3", {"candidates": []}, r"method.candidates=\[\]"),
        ("ia3", {"candidates": [1.0, -1.0]}, "expected positive numbers"),
        ("fish_mask", {"select": "prequential"}, "fish_mask trains in a way of its own"),
    ],
)
def test_bad_settings(kind, settings, says):
    with pytest.raises(InputError, match=says):
        replace(METHODS[kind](), **settings).check_selection()


def test_the_record_says_what_was_chosen_and_what_every_candidate_lost(backbones):
    adaptation = METHOD.adapt(backbones["llama"], TASK, shots((0, 1)), recipe(batch_size=2))
    for run in range(2):
        selected = _selected(adaptation.log, run)
        losses = selected["nats"]
        assert len(losses) == len(METHOD.candidates)
        assert float(min(losses, key=losses.get)) == selected["learning_rate"]
    plain = replace(METHOD, select="none").adapt(backbones["llama"], TASK, shots((0,)), recipe(batch_size=2))
    assert _selected(plain.log, 0) is None
    diverged = TrainingLog(selected=[{"learning_rate": 0.1}], nats=[{0.1: 2.0, 3.0: float("inf")}])
    assert json.loads(json.dumps(_selected(diverged, 0), allow_nan=False))["nats"] == {"0.1": 2.0, "3.0": None}
