"""Demonstrations read once, or one per pass, give what reading them plainly gives."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from adaptbench.costs.ledger import CostLedger
from adaptbench.costs.meta import MetaRun
from adaptbench.costs.pricer import Pricer
from adaptbench.data.batching import Shape, collate, encode
from adaptbench.data.example import Example
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.errors import InputError
from adaptbench.methods.icl import InContextLearning, balanced, last_that_fit
from adaptbench.methods.neighbours import nearest
from adaptbench.scoring.evaluate import evaluate, readings
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.scoring.shared_context import shared_context
from adaptbench.tasks.choices import Choices
from tests.conftest import ARCHITECTURES
from tests.factories import recipe, toy_task

DECODERS = [architecture for architecture in ARCHITECTURES if architecture != "t5"]


def scores_of(method, backbone, shots=5, seeds=(0, 1)):
    task = toy_task(9)
    prompts = evaluation_prompts(task, "random")
    adaptation = method.adapt(backbone, task, [draw(task, seed, shots) for seed in seeds], recipe())
    return adaptation, prompts, evaluate(adaptation, prompts, batch_size=4)


@pytest.mark.parametrize("architecture", DECODERS)
def test_demonstrations_read_once_give_the_scores_of_reading_them_every_time(exact, architecture):
    _, _, naive = scores_of(InContextLearning(), exact[architecture])
    adaptation, prompts, shared = scores_of(InContextLearning(cached=True), exact[architecture])
    for plain_run, shared_run in zip(naive, shared, strict=True):
        for plain, once in zip(plain_run, shared_run, strict=True):
            assert np.allclose(plain.log_likelihoods, once.log_likelihoods, atol=1e-8, rtol=0)
    assert all(reading.shared and reading.context_tokens > 20 for reading in readings(adaptation, prompts, 0))


@pytest.mark.parametrize("architecture", DECODERS)
def test_the_price_of_reading_after_a_shared_context_is_what_is_counted(backbones, architecture):
    backbone, before = backbones[architecture].on_meta(), 23
    shape = Shape(rows=2, source=7, choices=3, target=4)
    with shared_context(backbone, (3,) * before), FlopCounterMode(display=False) as counter:
        batch = Choices().batch_of_shape(shape, torch.device("meta"))
        token_log_probabilities(backbone, replace(batch, already_read=before))
    priced = Pricer(MetaRun.of(InContextLearning(), backbone, recipe())).predict_after(shape, before)
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
            row = encode(backbone, prompt, f"{shown.input} {shown.choices[shown.label]}\n\n")
            with torch.inference_mode():
                one_shot.append(token_log_probabilities(backbone, collate([row], backbone.pad_id)).sum(2)[0])
        expected = torch.stack(one_shot).exp().mean(0).log()
        assert np.allclose(score.log_likelihoods, expected, atol=1e-5)
    assert adaptation.contexts[0].demonstrations == 3


def test_an_ensemble_may_multiply_instead(backbones):
    backbone, task = backbones["llama"], toy_task(9)
    prompts, few_shot = evaluation_prompts(task, "random"), draw(task, 0, 2)

    def scores(method, *examples):
        adaptation = method.adapt(backbone, task, [replace(few_shot, examples=examples)], recipe())
        return np.array([score.log_likelihoods for score in evaluate(adaptation, prompts, batch_size=4)[0]])

    each = [scores(InContextLearning(), example) for example in few_shot.examples]
    product = scores(InContextLearning(strategy="ensemble_product"), *few_shot.examples)
    assert np.allclose(product, np.mean(each, axis=0), atol=1e-5, rtol=0)


def test_cached_ensembles_and_calibration_equal_reading_every_time(exact):
    for settings in ({"strategy": "ensemble"}, {"calibrated": True}, {"channel": True}):
        naive, shared = (
            scores_of(InContextLearning(cached=c, **settings), exact["llama"], 3)[2] for c in (False, True)
        )
        for plain_run, shared_run in zip(naive, shared, strict=True):
            for plain, once in zip(plain_run, shared_run, strict=True):
                assert np.allclose(plain.log_likelihoods, once.log_likelihoods, atol=1e-5, rtol=0), settings


def test_calibration_is_billed_for_every_content_free_input(backbones):
    def adapt(*texts):
        method = InContextLearning(calibrated=True, content_free=list(texts))
        adaptation, prompts, _ = scores_of(method, backbones["llama"], shots=2, seeds=(0,))
        return CostLedger(method, backbones["llama"], recipe()).bill(adaptation, 0, readings(adaptation, prompts, 0))

    single, double = adapt("N/A"), adapt("N/A", "[MASK]")
    assert double.flops_adapt > 1.9 * single.flops_adapt > 0


def test_shared_demonstrations_are_held_in_memory(backbones):
    method = InContextLearning(cached=True)
    adaptation, prompts, _ = scores_of(method, backbones["llama"], shots=4, seeds=(0,))
    bill = CostLedger(method, backbones["llama"], recipe()).bill(adaptation, 0, readings(adaptation, prompts, 0))
    assert bill.memory_predict.kv_cache == bill.kv_cache > 0


def test_long_prompts_that_may_be_cut_leave_half_the_room_to_demonstrations(backbones):
    long = Example("long", {"subject": "the cat " * 40, "number": 1, "label": 0})
    task = replace(toy_task(9), evaluation=[long])
    longest = len(backbones["llama"].tokenizer(evaluation_prompts(task, "long")[0].input)["input_ids"])
    for overlong, shown in (("refuse", 0), ("truncate", 1)):
        backbone = replace(backbones["llama"], max_length=longest + 8, overlong=overlong)
        adaptation = InContextLearning().adapt(backbone, task, [draw(task, 0, 4)], recipe())
        assert min(adaptation.contexts[0].demonstrations, 1) == shown


def test_equal_demonstrations_of_an_ensemble_count_twice(backbones):
    """Two rows of a draw may read the same."""
    backbone, task = backbones["t5"], toy_task(9)
    method = InContextLearning(strategy="ensemble")
    prompts = evaluation_prompts(task, "random")
    few_shot = draw(task, 0, 2)
    once, other = few_shot.examples
    answers = {}
    for name, examples in {"one": [once], "other": [other], "both": [once, other, once]}.items():
        adaptation = method.adapt(backbone, task, [replace(few_shot, examples=examples)], recipe())
        (scores,) = evaluate(adaptation, prompts, batch_size=4)
        answers[name] = np.exp([score.log_likelihoods for score in scores])
    assert np.allclose(answers["both"], (2 * answers["one"] + answers["other"]) / 3, rtol=1e-4)


def test_demonstrations_come_in_the_template_of_the_prompt(backbones):
    adaptation, prompts, _ = scores_of(InContextLearning(), backbones["llama"])
    for reading in readings(adaptation, prompts, 0):
        expected = 5 if prompts[reading.prompt].template == "long" else 0
        assert reading.context.count("given") == expected


def test_an_encoder_cannot_share_its_demonstrations(backbones):
    with pytest.raises(InputError, match="looks both ways"):
        scores_of(InContextLearning(cached=True), backbones["t5"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "vote"}, "method.strategy='vote': expected concatenated or ensemble"),
        ({"order": "best"}, "method.order='best': expected draw or seeded or nearest_last"),
        ({"neighbours": 0}, "method.neighbours=0: expected at least 1"),
        ({"cached": True, "neighbours": 2}, "nothing is shared"),
        ({"calibrated": True, "channel": True}, "calibration is of direct scores"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(InputError, match=re.escape(message)):
        InContextLearning(**settings).check()


def plain_log_p(backbone, source, target):
    """Log-probability of each target token after the source, by an ordinary forward pass."""
    with torch.inference_mode():
        if backbone.is_encoder_decoder:
            logits = backbone.model(input_ids=torch.tensor([source]), labels=torch.tensor([target])).logits
        else:
            logits = backbone.model(input_ids=torch.tensor([[*source, *target]])).logits[:, len(source) - 1 : -1]
    return logits.log_softmax(-1)[0].gather(1, torch.tensor(target)[:, None])[:, 0]


def plain(backbone, text, answer):
    """Log-likelihood of an answer after a text, tokenised as one by the tokenizer's ordinary call."""
    tokenizer = backbone.tokenizer
    source = tokenizer(text)["input_ids"]
    if backbone.is_encoder_decoder:
        return plain_log_p(backbone, source, tokenizer(answer)["input_ids"]).sum()
    return plain_log_p(backbone, source, tokenizer(f"{text} {answer}")["input_ids"][len(source) :]).sum()


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_calibration_divides_by_what_content_free_inputs_get(backbones, architecture):
    backbone, task = backbones[architecture], toy_task(9)
    method = InContextLearning(calibrated=True, content_free=["N/A", "[MASK]"])
    adaptation, prompts, (run,) = scores_of(method, backbone, shots=2, seeds=(0,))
    for prompt, score in zip(prompts[:4], run[:4], strict=True):
        (context,) = adaptation.contexts[0].find(prompt)
        first = draw(task, 0, 2).examples[0]
        free = [
            task.template(prompt.template).parts("0", {**first.fields, "subject": text, "number": text})[0]
            for text in ("N/A", "[MASK]")
        ]
        expected = []
        for choice in prompt.choices:
            given, *nothing = [plain(backbone, context + text, choice).double() for text in (prompt.input, *free)]
            expected.append(float(given - torch.stack(nothing).exp().mean().log()))
        assert np.allclose(score.log_likelihoods, expected, atol=1e-4)


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_the_channel_scores_the_input_given_each_choice(backbones, architecture):
    backbone, task = backbones[architecture], toy_task(9)
    adaptation, prompts, (run,) = scores_of(InContextLearning(channel=True), backbone, shots=2, seeds=(0,))
    for prompt, score in zip(prompts[:4], run[:4], strict=True):
        shown = [task.template(prompt.template).render(e.uid, e.fields) for e in draw(task, 0, 2).examples]
        text = "".join(f"{shot.choices[shot.label]} {shot.input}\n\n" for shot in shown)
        assert adaptation.contexts[0].find(prompt) == (text,)
        expected = [plain(backbone, text + choice, prompt.input) for choice in prompt.choices]
        assert np.allclose(score.log_likelihoods, expected, atol=1e-4)


def test_neighbours_are_the_shots_most_like_the_prompt_the_nearest_last(backbones):
    assert nearest("the red house", ["a dog", "the large red house", "the cat"]) == [1, 2, 0]
    backbone, task = backbones["llama"], toy_task(9)
    adaptation, prompts, _ = scores_of(InContextLearning(neighbours=2), backbone, shots=6, seeds=(0,))
    shots = draw(task, 0, 6).examples
    for prompt in prompts:
        shown = [task.template(prompt.template).render(e.uid, e.fields) for e in shots]
        order = nearest(prompt.input, [shot.input for shot in shown])[:2]
        text = "".join(f"{shown[i].input} {shown[i].choices[shown[i].label]}\n\n" for i in reversed(order))
        assert adaptation.contexts[0].find(prompt) == (text,)
    assert adaptation.contexts[0].demonstrations == 2


def test_a_balanced_context_shows_every_label_equally_often():
    examples = draw(toy_task(24), 0, 10).examples
    kept = [example.label for example in balanced(examples)]
    assert len(set(map(kept.count, set(kept)))) == 1
    assert [e for e in examples if e in balanced(examples)] == balanced(examples)


def test_the_seed_orders_demonstrations_and_a_budget_drops_whole_ones(backbones):
    backbone = backbones["llama"]
    plain, _, _ = scores_of(InContextLearning(), backbone, shots=6, seeds=(0,))
    seeded, _, _ = scores_of(InContextLearning(order="seeded"), backbone, shots=6, seeds=(0,))
    again, prompts, _ = scores_of(InContextLearning(order="seeded"), backbone, shots=6, seeds=(0,))
    (first,), (second,), (third,) = (adaptation.contexts[0].find(prompts[0]) for adaptation in (plain, seeded, again))
    assert first != second == third
    assert sorted(first) == sorted(second)
    short, _, _ = scores_of(InContextLearning(budget=40), backbone, shots=6, seeds=(0,))
    assert 0 < short.contexts[0].demonstrations < 6
    assert len(backbone.tokenizer(short.contexts[0].find(prompts[0])[0])["input_ids"]) <= 40


def test_whole_demonstrations_are_dropped_from_the_front():
    assert [last_that_fit([4, 3, 2], room) for room in (9, 8, 5, 4, 1)] == [3, 2, 2, 1, 0]
