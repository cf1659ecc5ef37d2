"""Passes keep to `model.logits_limit`, whatever the choices and the vocabulary, and no result depends on it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, T5Config

from adaptbench.cell import prepare_cell
from adaptbench.config import register_schemas, resolve
from adaptbench.costs.cached import cached_memory
from adaptbench.costs.flops import count
from adaptbench.costs.ledger import CostLedger
from adaptbench.costs.memory import PeakTracker, predict_memory, train_memory
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Encoded, Shape, shape_of
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import Prompt
from adaptbench.methods import METHODS
from adaptbench.methods.icl import InContextLearning
from adaptbench.models.backbone import Backbone, from_config
from adaptbench.runner import run_cell
from adaptbench.schema import LOGITS_LIMIT, RecipeConfig
from adaptbench.scoring import limits
from adaptbench.scoring.evaluate import evaluate, readings
from adaptbench.scoring.limits import PassSize, in_slices, logits_bytes, pass_size
from adaptbench.tasks.choices import Choices
from adaptbench.training import loop
from adaptbench.training.optim import Adafactor, RunOptimizer
from tests.factories import recipe, toy_task

CONF = Path(__file__).parents[2] / "conf"
CHOICES = "yes ||| no ||| maybe not ||| the large red house ||| it ||| a dog ran ||| good"  # seven, of unequal length
TASK = toy_task(6, CHOICES)
PROMPTS = evaluation_prompts(TASK, "random")
LOSSES = ["lm", "unlikelihood", "length_normalized"]
ENOUGH = 8 * 10**9  # bytes
WAYS = {  # name -> (model, whether choices share a pass)
    "decoder": ("llama", True),
    "decoder, plain": ("llama", False),
    "encoder-decoder": ("t5", True),
    "encoder-decoder, plain": ("t5", False),
}
PROMPTED = {
    "icl": {},
    "cached": {"cached": True},
    "calibrated": {"calibrated": True},
    "cached and calibrated": {"cached": True, "calibrated": True},
    "ensemble": {"strategy": "ensemble"},
    "channel": {"channel": True},
}


def whole_batch(shape):
    return Choices().batch_of_shape(shape, torch.device("meta"))


def limited(backbone, limit=LOGITS_LIMIT, packs=True):
    return replace(backbone, logits_limit=limit, packs_choices=packs)


def few(seeds, shots=2):
    return [draw(TASK, seed, shots) for seed in seeds]


def perturbed(kind, backbone, seeds):
    """A delta of as many runs, all different, and far from doing nothing."""
    adaptation = METHODS[kind]().prepare(backbone, seeds)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adaptation.parameters:
            parameter += 0.3 * torch.randn_like(parameter)
    return adaptation


def log_likelihoods(adaptation, batch_size=8):
    return np.array([[answer.log_likelihoods for answer in run] for run in evaluate(adaptation, PROMPTS, batch_size)])


class Logits(TorchDispatchMode):
    """Sees every tensor whose last axis is the vocabulary: its largest number of bytes, how often the head ran."""

    def __init__(self, vocabulary):
        super().__init__()
        self.vocabulary, self.largest = vocabulary, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with self:  # in inference mode composite operations come whole
            result = func.decompose(*args, **(kwargs or {}))
        if result is NotImplemented:
            result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and leaf.ndim > 1 and leaf.shape[-1] == self.vocabulary:
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return result


@pytest.fixture
def passes(monkeypatch):
    """The shape (rows, choices) of every pass."""
    seen = []

    def counted(backbone, batch, smoothing=0.0, score=limits.token_log_probabilities):
        seen.append(tuple(batch.targets.shape[:2]))
        return score(backbone, batch)

    monkeypatch.setattr(limits, "token_log_probabilities", counted)
    return seen


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("limit", [1, 40_000], ids=["a choice a pass", "some choices a pass"])
def test_scores_do_not_depend_on_the_limit(exact, passes, way, limit):
    model, packs = WAYS[way]
    zero_shot, backbone = METHODS["zero_shot"](), exact[model]
    whole = log_likelihoods(zero_shot.adapt(limited(backbone, packs=packs), TASK, few([0]), recipe()))
    at_once = len(passes)
    passes.clear()
    sliced = zero_shot.adapt(limited(backbone, limit, packs), TASK, few([0]), recipe())
    assert np.allclose(log_likelihoods(sliced), whole, atol=1e-9, rtol=0)
    assert at_once == 1 < len(passes)
    assert sliced.log.slices == -(-7 // passes[0][1])
    assert sliced.log.halvings == 0
    assert limit > 1 or set(passes) == {(1, 1)}


@pytest.mark.parametrize("prompted", PROMPTED)
def test_scores_after_demonstrations_do_not_depend_on_the_limit(exact, passes, prompted):
    scores, numbers = [], []
    for limit in (LOGITS_LIMIT, 30_000):
        passes.clear()
        method = InContextLearning(**PROMPTED[prompted])
        adaptation = method.adapt(limited(exact["llama"], limit), TASK, few([0, 1]), recipe())
        scores.append(log_likelihoods(adaptation))
        numbers.append(len(passes))
    assert np.allclose(*scores, atol=1e-9, rtol=0)
    assert numbers[1] > numbers[0]


@pytest.mark.parametrize("kind", ["ia3", "prefix", "prompt"])
@pytest.mark.parametrize("model", ["llama", "t5"])
def test_scores_of_fused_runs_do_not_depend_on_the_limit(exact, passes, model, kind):
    whole = log_likelihoods(perturbed(kind, limited(exact[model]), (1, 2, 3)))
    assert np.abs(whole[0] - whole[1]).max() > 1e-3
    passes.clear()
    sliced = log_likelihoods(perturbed(kind, limited(exact[model], 60_000), (1, 2, 3)))
    assert np.allclose(sliced, whole, atol=1e-9, rtol=0)
    assert {rows for rows, _ in passes} == {3}, "a row of each run"
    assert 1 <= max(choices for _, choices in passes) < 7


@pytest.mark.parametrize("way", WAYS)
def test_no_tensor_of_logits_is_larger_than_the_limit(backbones, way):
    """Evaluating and training, three runs in a pass: the limit is on all of them together."""
    model, packs = WAYS[way]
    backbone = limited(backbones[model], 70_000, packs)
    vocabulary = backbone.model.config.vocab_size
    for rows in (1, 6):
        adaptation = perturbed("ia3", backbone, (1, 2, 3))
        with Logits(vocabulary) as seen:
            evaluate(adaptation, PROMPTS[:rows], 128)
        assert 15_000 < seen.largest <= 70_000
    method = replace(METHODS["ia3"](), steps=1)
    with Logits(vocabulary) as seen:
        adaptation = method.adapt(backbone, TASK, few((1, 2, 3), 4), recipe(batch_size=4))
    assert 15_000 < seen.largest <= 70_000
    assert adaptation.log.slices > 1
    assert not adaptation.log.failures


def test_a_longer_row_of_another_run_is_reckoned_with(backbones):
    """Fused runs are padded to the longest row of all: here one run's choices, and another's number of them."""
    backbone = limited(backbones["llama"], 60_000)
    prompt = Prompt("u", "t", "x", ("a", "b"), 0)
    many = Encoded(prompt, (5, 6, 7), tuple((8 + c,) for c in range(6)))
    long = Encoded(prompt, (5, 6, 7), ((8, 9, 10, 11, 12, 13), (9, 9)))
    method = METHODS["ia3"]()
    adaptation = method.prepare(backbone, (1, 2))
    optimizer = RunOptimizer(adaptation.parameters, Adafactor(), 2)
    with adaptation.attached(), Logits(backbone.model.config.vocab_size) as seen:
        loop.accumulate(
            Choices(), backbone, [[many, many], [long, long]], RecipeConfig(losses=LOSSES), optimizer, adaptation.log
        )
    assert 0 < seen.largest <= 60_000


@pytest.mark.parametrize("way", ["decoder", "encoder-decoder, plain"])
def test_the_bill_is_that_of_one_pass_and_memory_that_of_its_slices(backbones, way):
    """What a prompt costs cannot depend on a technical setting that is no part of a run's id."""
    model, packs = WAYS[way]
    bills = {}
    prompts = PROMPTS[:2]
    for limit in (LOGITS_LIMIT, 20_000):
        backbone = limited(backbones[model], limit, packs)
        adaptation = replace(METHODS["ia3"](), steps=1).adapt(backbone, TASK, few([1], 4), recipe(batch_size=4))
        read = readings(adaptation, prompts, 0)
        bills[limit] = CostLedger(METHODS["ia3"](), backbone, recipe()).bill(adaptation, 0, read)
    whole, sliced = bills[LOGITS_LIMIT], bills[20_000]
    backbone = limited(backbones[model], 20_000, packs).on_meta()
    steps = [shape_of([reading.encoded]) for reading in read]
    counted = [
        count(lambda shape=shape: limits.token_log_probabilities(backbone, whole_batch(shape))) for shape in steps
    ]
    assert sliced.flops_predict == whole.flops_predict == sum(counted) / len(prompts)
    assert sliced.flops_adapt == whole.flops_adapt > 0
    assert sliced.memory_predict.activations < whole.memory_predict.activations
    assert sliced.memory_adapt.activations < whole.memory_adapt.activations


def test_memory_after_shared_demonstrations_is_that_of_slices(backbones):
    peaks = []
    for limit in (LOGITS_LIMIT, 20_000):
        run = MetaRun.of(InContextLearning(cached=True), limited(backbones["llama"], limit), recipe())
        peaks.append(cached_memory(run, Shape(1, 6, 40, 3), 9))
    assert peaks[1].activations < peaks[0].activations / 3
    assert peaks[1].kv_cache == peaks[0].kv_cache > 0


def test_rows_are_fewer_before_choices_are_sliced(backbones):
    backbone, shape = backbones["llama"], Shape(16, 10, 7, 4)
    whole = logits_bytes(backbone, shape)
    assert pass_size(limited(backbone, whole), shape) == PassSize(16, 7)
    assert pass_size(limited(backbone, whole - 1), shape) == PassSize(15, 7)
    assert pass_size(limited(backbone, whole), shape, runs=4) == PassSize(4, 7)
    assert pass_size(limited(backbone, whole // 16), shape) == PassSize(1, 7)
    assert pass_size(limited(backbone, whole // 16 - 1), shape) == PassSize(1, 4), "two slices of about the same size"
    assert pass_size(limited(backbone, 1), shape) == PassSize(1, 1)


# Rows of a training batch are fewer where each needs several passes anyway: the peak is the same, the test is faster.
LARGE = {
    "77 intents of a bank, all in the input": (152_000, Shape(2, 500, 77, 6)),  # the largest that is shipped
    "151 intents": (49_152, Shape(2, 200, 151, 8)),
    "151 answers of one token": (152_000, Shape(8, 200, 151, 1)),
    "long endings": (152_000, Shape(8, 200, 4, 60)),
}


def wide(model, vocabulary):
    """Narrow layers under a vocabulary of real size, without storage: logits are most of what it holds."""
    if model == "t5":
        config = T5Config(
            vocab_size=vocabulary, d_model=64, d_kv=16, d_ff=96, num_layers=2, num_heads=4, decoder_start_token_id=0
        )
    else:
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
        )
    return Backbone(model, from_config(config), None, torch.device("meta"), torch.float32, 10**9)


CELLS = [
    ("77 intents of a bank, all in the input", "llama", 1),
    ("77 intents of a bank, all in the input", "llama", 5),
    ("77 intents of a bank, all in the input", "t5", 5),
    ("151 intents", "llama", 20),
    ("151 answers of one token", "llama", 5),
    ("long endings", "llama", 5),
]


@pytest.mark.parametrize(("large", "model", "runs"), CELLS)
def test_default_settings_fit_eight_gigabytes(large, model, runs):
    """Scoring and training, all seeds in a pass, by the count of every tensor alive."""
    vocabulary, shape = LARGE[large]
    backbone = wide(model, vocabulary)
    prompt = Prompt("u", "t", "x", ("a", "b"), 0)
    row = Encoded(prompt, (5,) * shape.source, ((6,) * shape.target,) * shape.choices)
    adaptation = METHODS["ia3"]().prepare(backbone, tuple(range(runs)))
    size = pass_size(backbone, replace(shape, rows=128 // runs), runs)
    batch = Choices().batch_of_shape(replace(shape, rows=runs * size.rows), torch.device("meta"))
    with torch.inference_mode(), adaptation.attached(), PeakTracker(backbone.model.parameters()) as scored:
        in_slices(backbone, batch, size.choices)
    batches = [[row] * min(shape.rows, 1 if runs > 5 else 8)] * runs
    optimizer = RunOptimizer(adaptation.parameters, Adafactor(), runs)
    with adaptation.attached(), PeakTracker(backbone.model.parameters()) as trained:
        loop.accumulate(Choices(), backbone, batches, RecipeConfig(losses=LOSSES), optimizer, adaptation.log)
    for tracker in (scored, trained):
        assert LOGITS_LIMIT / 2 < tracker.peak < min(ENOUGH, 5 * LOGITS_LIMIT)


def test_the_bill_of_large_cells_fits_too():
    for vocabulary, shape in LARGE.values():
        run = MetaRun.of(METHODS["ia3"](), wide("llama", vocabulary), recipe())
        weights = predict_memory(run, Shape(1, 1, 1, 1)).weights
        assert predict_memory(run, replace(shape, rows=1)).peak < weights + 4 * LOGITS_LIMIT
        assert train_memory(run, shape).peak < weights + 8 * LOGITS_LIMIT


ERRORS = {
    "accelerator": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 12 GiB"),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory: you tried"),
    "python": MemoryError(),
}


@pytest.fixture
def small_memory(monkeypatch):
    """small_memory(choices, error): passes with more choices, over all their rows, raise it from now on."""

    def shrink(most, error, score=limits.token_log_probabilities):
        def limited_score(backbone, batch, smoothing=0.0):
            if batch.targets.shape[0] * batch.targets.shape[1] > most:
                raise error
            return score(backbone, batch)

        monkeypatch.setattr(limits, "token_log_probabilities", limited_score)

    return shrink


@pytest.mark.parametrize("error", ERRORS)
def test_evaluation_goes_on_with_half_the_rows(exact, small_memory, error):
    whole = log_likelihoods(perturbed("ia3", exact["t5"], (1, 2)), 12)
    adaptation = perturbed("ia3", exact["t5"], (1, 2))
    small_memory(2 * 7, ERRORS[error])  # a row of each run
    assert np.allclose(log_likelihoods(adaptation, 12), whole, atol=1e-9, rtol=0)
    assert adaptation.log.halvings == 2, "six rows, three, one"
    assert adaptation.log.slices == 1


def test_evaluation_goes_on_with_half_the_choices_of_a_row(exact, small_memory):
    whole = log_likelihoods(perturbed("ia3", exact["llama"], (1, 2)), 2)
    adaptation = perturbed("ia3", exact["llama"], (1, 2))
    small_memory(4, ERRORS["accelerator"])
    assert np.allclose(log_likelihoods(adaptation, 2), whole, atol=1e-9, rtol=0)
    assert adaptation.log.halvings == 2, "seven choices, three, one"
    assert adaptation.log.slices == 7


@pytest.mark.parametrize("most", [2 * 7, 4], ids=["rows", "choices"])
def test_training_goes_on_with_smaller_passes(backbones, small_memory, most):
    method = replace(METHODS["ia3"](), steps=3)
    few_shot, settings = few((1, 2), 4), recipe(batch_size=4, warmup_fraction=0.0)
    whole = method.adapt(backbones["llama"], TASK, few_shot, settings)
    small_memory(most, ERRORS["cpu"])
    halved = method.adapt(backbones["llama"], TASK, few_shot, settings)
    assert halved.log.halvings == (2 if most == 14 else 4)
    assert np.allclose(halved.log.losses, whole.log.losses, atol=1e-5, rtol=0)
    for parameter, expected in zip(halved.parameters, whole.parameters, strict=True):
        assert torch.allclose(parameter, expected, atol=1e-4, rtol=0)


def test_one_choice_that_does_not_fit_is_an_error(backbones, small_memory):
    adaptation, method = perturbed("ia3", backbones["llama"], (1,)), replace(METHODS["ia3"](), steps=1)
    small_memory(0, ERRORS["accelerator"])
    with pytest.raises(torch.OutOfMemoryError, match="12 GiB"):
        log_likelihoods(adaptation)
    with pytest.raises(torch.OutOfMemoryError, match="12 GiB"):
        method.adapt(backbones["llama"], TASK, few([1], 4), recipe())


def test_other_errors_halve_nothing(backbones, small_memory):
    adaptation = perturbed("ia3", backbones["llama"], (1,))
    small_memory(7, RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="multiplied"):
        log_likelihoods(adaptation)
    assert adaptation.log.halvings == 0


def test_the_record_says_how_passes_were_cut(small_memory, tmp_path):
    register_schemas()
    GlobalHydra.instance().clear()
    settings = ["limit=8", "seeds=[0,1]", "recipe.training.ia3.steps=2", "progress=false", "eval_batch_size=16"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = resolve(compose("config", [*settings, "dataset=micro_copa", "device=cpu", f"output={tmp_path}/whole"]))
    whole = run_cell(prepare_cell(config))
    small_memory(2 * 2 * 4, ERRORS["cpu"])  # four rows of two choices for each of two runs
    halved = run_cell(prepare_cell(replace(config, output=f"{tmp_path}/halved")))
    for uncut, cut in zip(whole, halved, strict=True):
        assert (uncut["provenance.halvings"], cut["provenance.halvings"]) == (0, 2), "eight training rows; eight scored"
        assert uncut["provenance.slices"] == cut["provenance.slices"] == 1
        assert uncut["provenance.final_loss"] == pytest.approx(cut["provenance.final_loss"], abs=1e-4)
        assert uncut["score"] == cut["score"]
        assert uncut["flops.predict.measured"] == cut["flops.predict.measured"]
