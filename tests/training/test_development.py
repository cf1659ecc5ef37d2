"""Development rows: where they come from, the state that is kept, when a training ends, and what looking costs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir

from adaptbench.cell import prepare_cell
from adaptbench.config import register_schemas, resolve
from adaptbench.costs.ledger import CostLedger
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.scoring.evaluate import evaluate, readings
from adaptbench.scoring.scores import headline, score
from adaptbench.training.development import DevelopmentRows
from experiments.commandline import CONF, program_arguments
from tests.factories import recipe, toy_task

TASK = replace(toy_task(24), held_out=6)
METHOD = replace(METHODS["ia3"](), learning_rate=0.1, scale_parameter=False)


def shots(seeds=(0, 1), count=8, task=TASK):
    return [draw(task, seed, count) for seed in seeds]


def uids(rows):
    return [row.uid for row in rows]


@pytest.mark.parametrize("sampling", ["natural", "stratified"])
@pytest.mark.parametrize("count", [9, "all"])
def test_held_out_rows_are_the_next_of_the_draw_and_never_trained_on(sampling, count):
    task = replace(TASK, sampling=sampling)
    plain = draw(replace(task, held_out=0), 3, 9 if count == 9 else 24)
    found = draw(task, 3, count)
    assert len(found.development) == 6
    assert not {*uids(found.examples)} & {*uids(found.development)}
    if count == 9:
        assert uids(found.examples) == uids(plain.examples)
        order = uids(draw(replace(task, held_out=0, sampling="natural"), 3, 24).examples)
        assert uids(found.development) == [uid for uid in order if uid not in uids(plain.examples)][:6]
    else:
        assert len(found.examples) == 18
        assert {*uids(found.examples), *uids(found.development)} == {*uids(task.train)}


def test_too_few_rows_to_hold_some_out_are_refused():
    with pytest.raises(InputError) as error:
        draw(TASK, 0, 20)
    assert "only 24 training rows, of which dataset.development holds out 6" in str(error.value)


def scripted(monkeypatch, scores):
    """Development scores as given, one list of runs for each look; returns the parameters as they were then."""
    states, looks = [], iter(scores)
    whole = DevelopmentRows.scores

    def found(rows, backbone, log):
        _, read = whole(rows, backbone, log)
        states.append([parameter.detach().clone() for parameter in watched])
        return next(looks), read

    watched: list = []
    monkeypatch.setattr(DevelopmentRows, "scores", found)
    return watched, states


def train(backbone, method, few_shot_sets, **settings):
    adaptation = method.prepare(backbone, [few.seed for few in few_shot_sets]).to_task(TASK.type)
    return adaptation, lambda: method.train(adaptation, TASK, few_shot_sets, recipe(**settings), "random", False)


def test_every_run_keeps_the_first_state_with_its_own_best_score(backbones, monkeypatch):
    watched, states = scripted(monkeypatch, [[0.2, 0.5], [0.9, 0.4], [0.9, 0.7], [0.3, 0.1]])
    adaptation, run = train(backbones["t5"], METHOD, shots(), epochs=4, batch_size=4)
    watched += adaptation.parameters
    kept = run()
    assert [(best.step, best.score, best.looks) for best in kept.log.best] == [(4, 0.9, 4), (6, 0.7, 4)]
    for parameter, second, third, last in zip(kept.parameters, states[1], states[2], states[3], strict=True):
        assert torch.equal(parameter[0], second[0])
        assert torch.equal(parameter[1], third[1])
        assert not torch.equal(parameter[0], last[0])


def test_a_run_ends_when_its_patience_does_and_others_go_on(backbones, monkeypatch):
    watched, states = scripted(monkeypatch, [[0.5, 0.1], [0.4, 0.2], [0.5, 0.3], [9.0, 0.4], [9.0, 0.5]])
    adaptation, run = train(backbones["t5"], METHOD, shots(), epochs=5, batch_size=4, patience=2)
    watched += adaptation.parameters
    log = run().log
    assert [len(shapes) for shapes in log.shapes] == [6, 10]
    assert [(best.step, best.looks) for best in log.best] == [(2, 3), (10, 5)]
    assert not log.failures
    for third, last in zip(states[2], states[4], strict=True):
        assert torch.equal(third[0], last[0])
        assert not torch.equal(third[1], last[1])


def test_a_training_whose_runs_have_all_ended_is_over(backbones, monkeypatch):
    scripted(monkeypatch, [[0.5, 0.5], [0.1, 0.2]])
    _, run = train(backbones["t5"], METHOD, shots(), epochs=50, batch_size=4, patience=1)
    assert len(run().log.losses) == 4


@pytest.mark.parametrize("kind", ["ia3", "full_ft"])
def test_scores_are_those_of_an_evaluation_of_the_development_rows(backbones, kind):
    (few_shot,) = shots((5,))
    method = replace(METHODS[kind](), learning_rate=1e-2)
    adaptation = method.adapt(backbones["llama"], TASK, [few_shot], recipe(epochs=3, batch_size=4))
    (answers,) = evaluate(adaptation, evaluation_prompts(replace(TASK, evaluation=few_shot.development), "random"), 8)
    assert adaptation.log.best[0].score == score(headline(TASK), TASK.type, answers, "token", 3)
    assert adaptation.log.best[0].looks == 3


def test_fused_runs_choose_and_learn_as_each_would_alone(exact):
    settings = recipe(epochs=6, batch_size=4, patience=2, evaluations=2)
    prompts = evaluation_prompts(TASK, "random")
    fused = METHOD.adapt(exact["llama"], TASK, shots((0, 1, 2)), settings)
    together = evaluate(fused, prompts, 12)
    assert len({tuple(uids(few.development)) for few in shots((0, 1, 2))}) == 3
    for run, few_shot in enumerate(shots((0, 1, 2))):
        alone = METHOD.adapt(exact["llama"], TASK, [few_shot], settings)
        assert alone.log.best == [fused.log.best[run]]
        assert alone.log.shapes[0] == fused.log.shapes[run]
        for one, other in zip(evaluate(alone, prompts, 4)[0], together[run], strict=True):
            assert np.allclose(one.log_likelihoods, other.log_likelihoods, atol=1e-8, rtol=0)


def test_runs_with_unequally_many_phrased_rows_share_their_passes(exact):
    """Under template=all a row has as many prompts as templates are meant for it."""
    long = replace(TASK.templates[1], jinja="{% if number < 8 %}" + TASK.templates[1].jinja + "{% endif %}")
    task = replace(TASK, templates=[TASK.templates[0], long])
    settings = recipe(epochs=2, batch_size=4)
    fused = METHOD.adapt(exact["llama"], task, shots(task=task), settings, "all")
    counts = {len(run) for run in fused.log.predicted}
    for run, few_shot in enumerate(shots(task=task)):
        alone = METHOD.adapt(exact["llama"], task, [few_shot], settings, "all")
        assert alone.log.best == [fused.log.best[run]]
        counts.add(len(alone.log.predicted[0]))
    assert len(counts) == 2


def test_a_training_that_fails_leaves_the_model_in_evaluation_mode(backbones, monkeypatch):
    backbone = backbones["t5"]
    monkeypatch.setattr(DevelopmentRows, "scores", lambda *_: 1 / 0)
    _, run = train(backbone, METHOD, shots(), epochs=2, batch_size=4)
    with pytest.raises(ZeroDivisionError):
        run()
    assert not backbone.model.training


def test_the_last_loss_of_a_run_is_that_of_its_own_last_step(backbones, monkeypatch):
    scripted(monkeypatch, [[0.5, 0.1], [0.4, 0.2], [0.3, 0.3]])
    _, run = train(backbones["t5"], METHOD, shots(), epochs=3, batch_size=4, patience=1)
    log = run().log
    assert log.final_losses == {0: log.losses[3][0], 1: log.losses[5][1]}


def test_the_bill_has_every_look_at_the_development_rows(backbones):
    settings = recipe(epochs=3, batch_size=4)
    adaptation = METHOD.adapt(backbones["llama"], TASK, shots((0,)), settings)
    ledger = CostLedger(METHOD, backbones["llama"], settings)
    bill = ledger.bill(adaptation, 0, readings(adaptation, evaluation_prompts(TASK, "random"), 0))
    steps, read = adaptation.log.shapes[0], adaptation.log.predicted[0]
    assert len(steps) == 6
    assert [shape.rows for shape in read] == [1] * 18
    assert bill.flops_adapt == sum(map(ledger._prices.train, steps)) + sum(map(ledger._prices.predict, read))


def test_passes_of_few_rows_add_up_to_the_whole_batch(exact):
    whole = METHOD.adapt(exact["t5"], TASK, shots(), recipe(epochs=2, batch_size=8))
    parts = METHOD.adapt(exact["t5"], TASK, shots(), recipe(epochs=2, batch_size=8, rows_per_pass=3))
    for one, other in zip(whole.parameters, parts.parameters, strict=True):
        assert torch.allclose(one, other, atol=1e-10)


def cell(*arguments):
    register_schemas()
    with initialize_config_dir(CONF, version_base="1.3"):
        given = ["method=ia3", "model=micro_t0", "dataset=micro_rte", "recipe=micro", "seeds=[0]", *arguments]
        return prepare_cell(resolve(compose("config", program_arguments(given))))


def test_ids_depend_on_development_rows_where_a_training_looks_at_them():
    plain, held_out = cell(), cell("dataset.development=20")
    assert plain.run_ids != held_out.run_ids != cell("dataset.development=21").run_ids
    assert held_out.run_ids != cell("dataset.development=20", "recipe.patience=3").run_ids
    assert len(held_out.few_shot_sets[0].development) == 20
    untrained = [cell("method=zero_shot", *more).run_ids for more in ([], ["dataset.development=20"])]
    assert untrained[0] == untrained[1]
    epochs = ["recipe.epochs=3"]
    assert cell(*epochs).run_ids == cell(*epochs, "method.steps=7").run_ids != plain.run_ids
    assert cell("recipe.rows_per_pass=2").run_ids == plain.run_ids


def test_the_reported_rows_may_be_looked_at_and_are_named():
    task = cell("dataset.development=evaluation").task
    assert task.development == task.evaluation
    assert "optimistic" in task.development_split


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["recipe.patience=3"], "recipe.patience=3: dataset 'micro_rte' has no development rows"),
        (["recipe.patience=0", "dataset.development=9"], "recipe.patience=0: expected at least 1"),
        (["dataset.development=0"], "dataset.development=0: expected at least 1, a split, or null"),
        (["dataset.development=validation"], "dataset.development='validation'"),
        (["shots=some"], "shots='some': expected at least 1, or all"),
        (["recipe.epochs=0"], "recipe.epochs=0.0: expected more than 0"),
        (["recipe.evaluations=-1"], "recipe.evaluations=-1.0: expected more than 0"),
        (["recipe.epochs=nan"], "recipe.epochs=nan: expected more than 0"),
        (["recipe.label_smoothing=0.1"], "recipe.label_smoothing=0.1: dataset.task=choices has no such loss"),
        (["recipe.label_smoothing=1"], "recipe.label_smoothing=1.0: expected at least 0 and less than 1"),
        (["recipe.weight_decay=0.1"], "recipe.weight_decay=0.1: only recipe.optimizer=adamw has one"),
        (["recipe.weight_decay=-1", "recipe.optimizer=adamw"], "recipe.weight_decay=-1.0: expected at least 0"),
        (["dataset.development=9", "method=icl_tuned", "model=micro_gpt_l"], "dataset.development=9: method=icl_tuned"),
        (["recipe.rows_per_pass=0"], "recipe.rows_per_pass=0: expected at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(arguments, says):
    with pytest.raises(InputError) as error:
        cell(*arguments)
    assert str(error.value).startswith(says)
