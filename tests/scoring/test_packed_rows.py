"""Rows laid end to end score and learn as padded ones: all architectures, methods, windows and shared contexts."""

import copy
from dataclasses import replace
from functools import partial
from itertools import combinations

import pytest
import torch

from adaptbench.costs.flops import count
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Shape, collate, encode
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.methods.icl import InContextLearning
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.models import attention, packed_rows
from adaptbench.models.backbone import can_pack_rows, load_backbone
from adaptbench.models.delta import runs_on
from adaptbench.models.packed_rows import CALLS, PackedRows, Row, partition
from adaptbench.scoring.evaluate import evaluate
from adaptbench.scoring.limits import in_slices
from adaptbench.scoring.rank import token_log_probabilities
from tests.factories import recipe, toy_task
from tests.methods.roster import VARIANTS
from tests.models.architectures import DECODERS, WINDOWED
from tests.models.conftest import tiny  # noqa: F401

TOLERANCE = 1e-4  # nats, in single precision
PROMPTS = [
    prompt
    for choices in ("yes ||| no", "yes ||| no ||| maybe not so", "a good dog ||| the house was red")
    for prompt in evaluation_prompts(toy_task(4, choices), "random")
]


def both(backbone):
    """The same backbone: rows padded, and rows packed."""
    return replace(backbone, packs_rows=False), replace(backbone, packs_rows=True)


def batch_of(backbone, prompts=PROMPTS):
    return collate([encode(backbone, prompt) for prompt in prompts], backbone.pad_id)


def packing(monkeypatch):
    """How many passes were packed, as a list that grows."""
    found = []
    known = attention.rows_packed
    monkeypatch.setattr("adaptbench.scoring.rank.rows_packed", lambda rows: found.append(rows) or known(rows))
    return found


@pytest.fixture(params=[0, CALLS], ids=["each row alone", "as shipped"])
def grouping(request, monkeypatch):
    """Attention takes every row by itself, or similar rows together."""
    monkeypatch.setattr(packed_rows, "CALLS", request.param)


@pytest.mark.parametrize("name", DECODERS)
def test_every_architecture_scores_packed_rows_as_padded_ones(tiny, name, grouping, monkeypatch):  # noqa: F811
    backbone, passes = tiny(name).backbone, packing(monkeypatch)
    if not can_pack_rows(backbone.model):
        pytest.skip("makes masks or attention itself")
    assert len({row.sum() for row in batch_of(backbone).source_mask}) > 1
    with torch.inference_mode():
        padded, packed = (token_log_probabilities(b, batch_of(b)) for b in both(backbone))
    assert len(passes) == 1
    torch.testing.assert_close(packed, padded, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llama", *sorted(set(WINDOWED) & set(DECODERS))])
def test_rows_whose_answers_are_single_tokens_are_causal(tiny, name, grouping, monkeypatch):  # noqa: F811
    passes = packing(monkeypatch)
    if not can_pack_rows(tiny(name).backbone.model):
        pytest.skip("makes masks or attention itself")
    prompts = [replace(prompt, choices=("a", "b"), delimiter="") for prompt in PROMPTS[:6]]
    padded, packed = both(tiny(name).backbone)
    batch = batch_of(packed, prompts)
    assert batch.targets.shape[2] == 1
    with torch.inference_mode():
        expected, found = (token_log_probabilities(backbone, batch) for backbone in (padded, packed))
    assert all(group.causal for group in passes[0].groups)
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["llama", *sorted(set(WINDOWED) & set(DECODERS))])
def test_what_was_read_before_is_seen_by_every_packed_row(tiny, name, grouping, monkeypatch):  # noqa: F811
    """Windows hide its first tokens from most."""
    task, passes = toy_task(6), packing(monkeypatch)
    if not can_pack_rows(tiny(name).backbone.model):
        pytest.skip("makes masks or attention itself")
    prompts = evaluation_prompts(task, "random")
    method = InContextLearning(name="icl_cached", cached=True)
    padded, packed = (
        evaluate(method.adapt(b, task, [draw(task, 3, 3)], recipe()), prompts, 4)[0] for b in both(tiny(name).backbone)
    )
    assert passes
    for one, other in zip(padded, packed, strict=True):
        assert other.log_likelihoods == pytest.approx(one.log_likelihoods, abs=TOLERANCE)


@pytest.mark.parametrize("name", [name for name, method in VARIANTS.items() if method.attachment != "nothing"])
def test_every_method_learns_the_same_from_packed_rows(exact, name, grouping):
    results = []
    for backbone in both(exact["llama"]):
        torch.manual_seed(0)
        adaptation = VARIANTS[name].prepare(backbone, [3])
        adaptation.backbone.train(False)
        parameters = [p for p in adaptation.parameters if p.requires_grad]
        with adaptation.attached():
            scores = token_log_probabilities(adaptation.backbone, batch_of(adaptation.backbone))
            gradients = torch.autograd.grad(scores.sum(), parameters, allow_unused=True)
        results.append((scores.detach(), gradients))
    (padded, expected), (packed, found) = results
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-9)
    for mine, own in zip(found, expected, strict=True):
        assert (mine is None) == (own is None)
        if mine is not None:
            torch.testing.assert_close(mine, own, rtol=1e-5, atol=1e-6)  # prefixes are kept in single precision


@pytest.mark.parametrize("name", ["lora", "prompt", "prefix", "unipelt"])
def test_every_run_has_a_long_row_of_its_own(exact, name, grouping, monkeypatch):
    """Two runs with different prompts: the shorter one is padded, and neither sees the other."""
    passes, results = packing(monkeypatch), []
    for backbone in both(exact["llama"]):
        adaptation = VARIANTS[name].prepare(backbone, [1, 2])
        parameters = list(adaptation.delta.parameters())
        batch = batch_of(adaptation.backbone, PROMPTS[:3] + PROMPTS[-3:])
        with adaptation.attached():
            assert runs_on(backbone.model) == 2
            scores = token_log_probabilities(adaptation.backbone, batch)
        results.append((scores.detach(), torch.autograd.grad(scores.sum(), parameters)))
        assert runs_on(backbone.model) == 1
    assert len(passes) == 1
    (padded, expected), (packed, found) = results
    torch.testing.assert_close(packed, padded, rtol=0, atol=1e-9)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_small_models_and_passes_that_are_only_counted_pad_their_rows(exact, monkeypatch, model_folders):
    assert not exact["llama"].packs_rows
    monkeypatch.setattr("adaptbench.models.backbone.SMALL", 0)
    large = load_backbone.__wrapped__("llama", str(model_folders["llama"]), device="cpu")
    assert large.packs_rows
    passes, shape = packing(monkeypatch), Shape(2, 9, 2, 3)
    runs = [MetaRun.of(VARIANTS["lora"], b.on_meta(), recipe()) for b in both(large)]
    counted = [count(partial(run.predict, shape)) for run in runs]
    assert counted[0] == counted[1] > 0
    assert not passes
    assert not load_backbone.__wrapped__("t5", str(model_folders["t5"]), device="cpu").packs_rows


def cost(lengths, ranges, before):
    return sum(CALLS + (stop - start) * lengths[stop - 1] * (before + lengths[stop - 1]) for start, stop in ranges)


@pytest.mark.parametrize("before", [0, 300])
@pytest.mark.parametrize("lengths", [[5], [5, 5, 5], [10, 40, 120, 130, 400], [90, 95, 100, 200, 210, 500, 900]])
def test_no_other_grouping_takes_less_time(lengths, before):
    count = len(lengths)
    cuts = [inner for size in range(count) for inner in combinations(range(1, count), size)]
    every = [list(zip((0, *inner), (*inner, count), strict=True)) for inner in cuts]
    assert cost(lengths, partition(lengths, before), before) == min(cost(lengths, each, before) for each in every)


def test_scores_are_counted_with_their_padding():
    """Two rows of 2 and 3 tokens after 4 that all see, in one group: 2 * 3 * (4 + 3)."""
    rows = PackedRows([Row(0, 0, 2), Row(2, 0, 1, (1, 1))], torch.tensor([[0, 1, 0, 1, 1]]))
    assert len(rows.groups) == 1
    assert rows.scores(4) == 42
    mask = rows.visible(0, 4, None, False)
    assert mask.shape == (2, 1, 3, 7)
    assert mask[:, 0, :, :4].all()
    assert mask[1, 0, :, 4:].tolist() == [[True, False, False], [True, True, False], [True, False, True]]  # a tree


def test_choices_read_in_slices_learn_the_same(exact):
    """Packed passes are computed again on the way back."""
    results = []
    for backbone in both(exact["llama"]):
        adaptation = VARIANTS["lora"].prepare(backbone, [3])
        with adaptation.attached():
            scores = in_slices(adaptation.backbone, batch_of(adaptation.backbone), 1)
            results.append((scores.detach(), torch.autograd.grad(scores.sum(), list(adaptation.delta.parameters()))))
    torch.testing.assert_close(results[1], results[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_as_near_to_double_as_padded_rows_are(exact, dtype):
    backbone = exact["llama"]
    half = replace(backbone, model=copy.deepcopy(backbone.model).to(dtype), dtype=dtype)
    task = toy_task(6)
    prompts, shots = evaluation_prompts(task, "random"), [draw(task, 3, 3)]
    for method in (ZeroShot(), InContextLearning(name="icl_cached", cached=True)):
        scores = []
        for each in (backbone, *both(half)):
            found = evaluate(method.adapt(each, task, shots, recipe()), prompts, 4)[0]
            scores.append(torch.tensor([answer.log_likelihoods for answer in found], dtype=torch.float64))
        exactly, padded, packed = scores
        assert (packed - exactly).abs().max() < 2 * (padded - exactly).abs().max() + 0.01


def test_deltas_of_different_runs_cannot_share_a_pass(exact):
    model = exact["llama"].model
    two, three = (VARIANTS["lora"].prepare(exact["llama"], seeds).delta for seeds in ([1, 2], [1, 2, 3]))
    with two.attached(model), pytest.raises(ValueError, match="2 and 3 runs"), three.attached(model):
        pass
    assert runs_on(model) == 1
