"""After training: merging into the weights, many adapters in one batch, prefixes folded."""

from dataclasses import replace

import pytest
import torch

from adaptbench.costs.ledger import CostLedger
from adaptbench.data.batching import collate, encode, shape_of
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.methods import METHODS
from adaptbench.methods.fish_mask import FishMask, fisher_information
from adaptbench.methods.prefix import Prefix, states_of_text
from adaptbench.scoring.evaluate import Reading
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.losses import per_run_loss
from tests.conftest import ARCHITECTURES
from tests.factories import recipe, toy_task
from tests.methods.roster import VARIANTS

MERGING = [name for name, method in VARIANTS.items() if method.merges]


def randomised(adaptation):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adaptation.delta.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return adaptation


def rows_of(backbone, count=4):
    return [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(count), "random")]


def log_p(backbone, rows):
    with torch.inference_mode():
        return token_log_probabilities(backbone, collate(rows, backbone.pad_id))


def test_changes_of_weights_merge():
    assert {name for name, method in METHODS.items() if method.merges} == {
        *("ia3", "lora", "bitfit", "intrinsic_said", "fish_mask", "layernorm"),
    }


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("variant", MERGING)
def test_merged_weights_compute_the_same(exact, architecture, variant):
    backbone, method = exact[architecture], VARIANTS[variant]
    adaptation = randomised(method.prepare(backbone, (1, 2)))
    rows = rows_of(backbone)
    before = log_p(backbone, rows)
    with adaptation.attached():
        attached = log_p(backbone, rows * 2)[len(rows) :]
    merged = log_p(method.merge(adaptation, run=1), rows)
    assert (merged - attached).abs().max() < 1e-5
    assert (merged - before).abs().max() > 1e-3
    assert torch.equal(log_p(backbone, rows), before)


def test_what_cannot_be_merged_says_so(backbones):
    method = METHODS["prefix"](name="prefix")
    with pytest.raises(NotImplementedError, match="prefix cannot be merged"):
        method.merge(method.prepare(backbones["t5"], (1,)))


def test_inference_is_billed_merged_and_unmerged(backbones):
    backbone = backbones["t5"]
    rows = rows_of(backbone)

    def bill(kind):
        method = METHODS[kind](name=kind)
        return CostLedger(method, backbone, recipe()).bill(
            method.prepare(backbone, (1,)), 0, [Reading(i, (), row) for i, row in enumerate(rows)]
        )

    plain = bill("zero_shot").flops_predict
    lora = bill("lora")
    assert lora.flops_predict_merged == pytest.approx(plain)
    assert lora.flops_predict > 1.05 * plain
    assert bill("ia3").flops_predict_merged == pytest.approx(plain)
    assert bill("adapter").flops_predict_merged is None


@pytest.mark.parametrize("architecture", ["t5", "gpt2"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_one_batch_serves_many_tasks(exact, architecture, variant):
    """Row n goes through adapter tasks[n]; the same as serving each adapter alone."""
    adaptation = randomised(VARIANTS[variant].prepare(exact[architecture], (1, 2, 3)).for_inference())
    backbone, tasks = adaptation.backbone, torch.tensor([2, 0, 0, 1])
    rows = rows_of(backbone)
    with adaptation.serving(tasks):
        mixed = log_p(backbone, rows)
    with adaptation.attached():
        every = log_p(backbone, rows * 3).unflatten(0, (3, len(rows)))
    alone = torch.stack([every[task, row] for row, task in enumerate(tasks.tolist())])
    assert (mixed - alone).abs().max() < 1e-5
    assert (every[0] - every[1]).abs().max() > 1e-4


def test_a_reparameterised_prefix_folds_into_plain_states(backbones):
    backbone = backbones["t5"]
    adaptation = randomised(Prefix(name="prefix", hidden=16, virtual_tokens=3).prepare(backbone, (1, 2)))
    folded = adaptation.for_inference()
    rows = rows_of(backbone)
    with adaptation.attached():
        ours = log_p(backbone, rows * 2)
    with folded.attached():
        assert torch.allclose(log_p(backbone, rows * 2), ours, atol=1e-6)
    plain = Prefix(name="prefix", virtual_tokens=3).prepare(backbone, (1,))
    assert folded.delta.state_of(0).keys() == plain.delta.state_of(0).keys()
    assert adaptation.trainable == folded.trainable == plain.trainable < adaptation.delta.parameters_per_run


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("hidden", [None, 16])
def test_a_prefix_starts_as_the_states_of_a_text(backbones, architecture, hidden):
    backbone, text = backbones[architecture], ["question is", "answer"]
    states = states_of_text(backbone, text, 3)
    method = Prefix(name="prefix", hidden=hidden, text=text, virtual_tokens=3)
    adaptation = method.prepare(backbone, (1, 2)).for_inference()
    for path, (key, value) in states.items():
        piece = adaptation.delta.pieces[path.replace(".", "/")]
        for run in range(2):
            assert (piece.key[run] - key).abs().max() < 1e-4
            assert (piece.value[run] - value).abs().max() < 1e-4


def test_a_fish_mask_trains_the_parameters_of_largest_fisher_information(backbones):
    backbone, task = backbones["t5"], toy_task()
    few_shot = draw(task, 1, 4)
    names = dict(backbone.model.named_parameters())
    information, shapes = fisher_information(backbone, task, few_shot, recipe(), "short")
    assert len(shapes) == 4
    expected = {name: torch.zeros_like(parameter) for name, parameter in names.items()}
    for example in few_shot.examples:  # one backward pass each, on a copy
        copied = backbone.unfrozen_copy()
        row = encode(copied, task.template("short").render(example.uid, example.fields))
        batch = collate([row], copied.pad_id)
        scores = token_log_probabilities(copied, batch)
        per_run_loss(recipe().losses, scores, batch.target_mask, batch.label, 1).sum().backward()
        for name, parameter in copied.model.named_parameters():
            if parameter.grad is not None:
                expected[name] += parameter.grad.square() / 4
    for name, value in expected.items():
        assert torch.allclose(information[name], value, rtol=1e-3, atol=1e-9)

    method = FishMask(name="fish", keep=0.01, steps=5, learning_rate=0.01)
    adaptation = method.adapt(backbone, task, [few_shot], recipe(), "short")
    count = int(0.01 * backbone.parameters_total)
    assert adaptation.trainable == count
    assert len(adaptation.log.shapes[0]) == 4 + 5
    threshold = torch.cat([value.flatten() for value in expected.values()]).topk(count).values.min()
    for name, piece in adaptation.delta.pieces.items():
        chosen = expected[name.replace("/", ".")].flatten()[piece.indices[0].long()]
        assert (chosen >= threshold * 0.999).all()
    merged = method.merge(adaptation)
    changed = sum(int((a != b).sum()) for a, b in zip(merged.model.parameters(), names.values(), strict=True))
    assert 0.9 * count < changed <= count
    rows = rows_of(backbone)
    with adaptation.attached():
        attached = log_p(backbone, rows)
    assert (log_p(merged, rows) - attached).abs().max() < 1e-5 * attached.abs().max()
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())


def test_a_fish_mask_costs_a_whole_backward_pass(backbones):
    """Every weight's gradient is computed to keep a few of its elements: three forwards, as full fine-tuning."""
    from adaptbench.costs.meta import MetaRun
    from adaptbench.costs.pricer import Pricer

    backbone, shape = backbones["t5"], replace(shape_of(rows_of(backbones["t5"])), rows=4)
    fish, full = (Pricer(MetaRun.of(METHODS[k](name=k), backbone, recipe())) for k in ("fish_mask", "full_ft"))
    assert fish.train(shape) >= 0.99 * full.train(shape)
