"""What a pre-training is billed: counts by hand, and of steps that really run."""

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from adaptbench.costs.flops import count
from adaptbench.pretraining.bill import FlopsOfPasses, memory_peak
from adaptbench.pretraining.objectives import Causal, Masked, collate, summed_loss
from tests.models.bare import bert_tokenizer, save_bare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return AutoModelForMaskedLM.from_pretrained(save_bare("bert", tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def masked() -> Masked:
    return Masked.of(bert_tokenizer(), 0.15, "toy")


def batch_of(masked: Masked, rows: int, width: int):
    ids = np.random.default_rng(0).integers(5, 200, (rows, width))
    return collate(masked.ask(list(ids), np.random.default_rng(1)), 0, width, CPU)


def test_flops_of_a_small_bert_are_those_counted_by_hand(model, masked):
    config = model.config
    width, inner, layers, vocabulary = (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.vocab_size,
    )

    def body(rows: int, tokens: int) -> int:
        """Multiply-adds of a forward pass: four projections, two maps of the feed-forward, scores and their product."""
        linear = rows * tokens * (4 * width**2 + 2 * width * inner)
        return layers * (linear + 2 * rows * tokens**2 * width)

    predicted = 37
    head = predicted * (width**2 + width * vocabulary)
    by_hand = (
        2 * 3 * (5 * body(4, 16) + body(3, 24) + head)
    )  # two per multiply-add; the backward pass costs two forward
    work = {("pass", 4, 16): 5, ("pass", 3, 24): 1, "predicted": predicted, "tokens": 1, "rows": 23}
    assert FlopsOfPasses(model, masked).total(work) == by_hand


@pytest.mark.parametrize(("rows", "width"), [(5, 40), (2, 8)])
def test_a_bill_is_what_real_steps_count(model, masked, rows, width):
    batch = batch_of(masked, rows, width)
    with sdpa_kernel(SDPBackend.MATH):
        real = count(lambda: summed_loss(model, batch).backward())
    work = {("pass", rows, width): 1, "predicted": len(batch.answers)}
    assert FlopsOfPasses(model, masked).total(work) == real


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_a_decoders_bill_is_what_real_steps_count(name, model_folders):
    model = AutoModelForCausalLM.from_pretrained(model_folders[name])
    rows = list(np.random.default_rng(0).integers(3, 300, (3, 16)))
    batch = collate(Causal().ask(rows, np.random.default_rng(1)), 0, 16, CPU)
    with sdpa_kernel(SDPBackend.MATH):
        real = count(lambda: summed_loss(model, batch).backward())
    assert FlopsOfPasses(model, Causal()).total({("pass", 3, 16): 1, "predicted": 45}) == real


def test_a_model_that_asks_what_tensors_contain_is_counted_with_contents(model, masked, monkeypatch):
    work = {("pass", 4, 16): 2, "predicted": 21}
    expected = FlopsOfPasses(model, masked).total(work)

    def fails(*_, **__):
        raise RuntimeError("no contents")

    monkeypatch.setattr("adaptbench.pretraining.bill.from_config", fails)
    counter = FlopsOfPasses(model, masked)
    assert counter._counted is model
    assert counter.total(work) == expected
    assert all(parameter.grad is None for parameter in model.parameters())


def test_memory_holds_weights_gradients_and_moments_and_grows_with_the_pass(model, masked):
    def peak(rows: int, passes: int = 1) -> int:
        batch = batch_of(masked, rows, 40)
        return memory_peak(model, [lambda: summed_loss(model, batch)] * passes, autocast=False)

    held = 4 * 4 * model.num_parameters()
    assert held < peak(2) < peak(8)
    # The second pass of a step has the gradients of the first beside its activations.
    assert peak(8) < peak(8, 2) <= peak(8, 3) + 4 * model.num_parameters()
    assert peak(8, 2) == peak(8, 3)
    assert all(parameter.grad is None for parameter in model.parameters())
