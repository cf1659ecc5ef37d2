"""Which tokens are predicted, and that the losses are those of transformers."""

from functools import partial

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

from adaptbench.errors import InputError
from adaptbench.pretraining.corpora import Corpus, cut
from adaptbench.pretraining.objectives import Causal, Masked, collate, logits_at, summed_loss
from tests.models.bare import bert_tokenizer, roberta_tokenizer, save_bare
from tests.pretraining.conftest import sentences

CPU = torch.device("cpu")
TOKENIZER = bert_tokenizer()
UNKNOWN = "\N{SNOWMAN}"  # no letter of the vocabulary


@pytest.fixture(scope="module")
def masked() -> Masked:
    return Masked.of(TOKENIZER, 0.15, "toy")


@pytest.fixture(scope="module")
def blocks():
    return cut(Corpus(("toy",), [*sentences(400), f"the {UNKNOWN} cat"]), TOKENIZER, 42, packed=True, causal=False)


def test_fifteen_percent_of_every_row_are_selected_and_never_a_special_token(masked, blocks):
    rows = [blocks[block] for block in range(len(blocks))]
    special = set(TOKENIZER.all_special_ids)
    assert TOKENIZER.unk_token_id in rows[-1]
    for row, question in zip(rows, masked.ask(rows, np.random.default_rng(0)), strict=True):
        own = [place for place, index in enumerate(row) if index not in special]
        assert len(question.places) == max(1, round(0.15 * len(own)))
        assert set(question.places) <= set(own)
        assert len(set(question.places)) == len(question.places)
        assert np.array_equal(question.answers, row[question.places])
        others = np.setdiff1d(np.arange(len(row)), question.places)
        assert np.array_equal(question.ids[others], row[others])


def test_eighty_percent_become_the_mask_ten_another_word_and_ten_stay(masked, blocks):
    rows = [blocks[block] for block in range(len(blocks))]
    questions = masked.ask(rows, np.random.default_rng(0))
    shown = np.concatenate([question.ids[question.places] for question in questions])
    were = np.concatenate([question.answers for question in questions])
    hidden, same = shown == TOKENIZER.mask_token_id, shown == were
    replaced = ~hidden & ~same
    assert len(shown) > 500
    deviation = np.sqrt([0.16, 0.09, 0.09]) / np.sqrt(len(shown))
    assert np.all(np.abs(np.array([hidden.mean(), replaced.mean(), same.mean()]) - [0.8, 0.1, 0.1]) < 4 * deviation)
    assert not set(shown[replaced]) & set(TOKENIZER.all_special_ids)
    assert len(set(shown[replaced])) > 10


def test_the_same_seed_masks_the_same_and_another_one_others(masked, blocks):
    rows = [blocks[0], blocks[1]]

    def drawn(seed: int) -> list[list[int]]:
        return [question.ids.tolist() for question in masked.ask(rows, np.random.default_rng(seed))]

    assert drawn(1) == drawn(1) != drawn(2)
    assert np.array_equal(rows[0], blocks[0])


def test_a_row_with_nothing_to_predict_asks_nothing(masked):
    (question,) = masked.ask([np.array([2, 1, 3])], np.random.default_rng(0))
    assert len(question.places) == 0
    (question,) = masked.ask([np.array([2, 9, 3])], np.random.default_rng(0))
    assert question.places.tolist() == [1]


def test_a_tokenizer_without_a_mask_token_is_refused():
    with pytest.raises(InputError, match="needs a mask token, and its tokenizer has none"):
        Masked.of(roberta_tokenizer(), 0.15, "toy")


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta_v3", "deberta_v2"])
def test_the_masked_loss_is_that_of_transformers_own_model(name, tmp_path, masked, blocks):
    model = AutoModelForMaskedLM.from_pretrained(save_bare(name, tmp_path)).eval()
    rows = [blocks[0][:30], blocks[1], blocks[2][:17]]
    if name == "roberta":  # its tokenizer is another, but ids are ids
        rows = [np.where(row == 0, 7, row) for row in rows]
    questions = masked.ask(rows, np.random.default_rng(0))
    batch = collate(questions, 0, 48, CPU)
    labels = torch.full_like(batch.ids, -100)
    labels[batch.rows, batch.places] = batch.answers
    with torch.no_grad():
        theirs = model(input_ids=batch.ids, attention_mask=batch.mask, labels=labels)
        ours = summed_loss(model, batch) / len(batch.answers)
        assert torch.allclose(logits_at(model, batch), theirs.logits[batch.rows, batch.places], atol=1e-5)
    assert abs(ours.item() - theirs.loss.item()) < 1e-5
    own = [dict(zip(question.places.tolist(), question.answers.tolist(), strict=True)) for question in questions]
    pairs = [(row, int(place)) for row in range(3) for place in torch.where(labels[row] >= 0)[0]]
    assert {(row, place): int(labels[row, place]) for row, place in pairs} == {
        (row, place): answer for row, places in enumerate(own) for place, answer in places.items()
    }


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt"])
def test_the_causal_loss_is_that_of_transformers_own_model(name, model_folders):
    model = AutoModelForCausalLM.from_pretrained(model_folders[name]).eval()
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 300, length) for length in (20, 9, 1)]
    batch = collate(Causal().ask(rows, rng), 0, 24, CPU)
    labels = torch.where(batch.mask == 1, batch.ids, -100)
    with torch.no_grad():
        theirs = model(input_ids=batch.ids, attention_mask=batch.mask, labels=labels).loss
        ours = summed_loss(model, batch) / len(batch.answers)
    assert len(batch.answers) == 19 + 8
    assert abs(ours.item() - theirs.item()) < 1e-5


def test_the_head_reads_the_predicted_positions_alone(tmp_path, masked, blocks):
    model = AutoModelForMaskedLM.from_pretrained(save_bare("bert", tmp_path)).eval()
    seen: list[tuple[int, ...]] = []
    model.cls.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    batch = collate(masked.ask([blocks[0], blocks[1]], np.random.default_rng(0)), 0, 42, CPU)
    summed_loss(model, batch).backward()
    assert seen == [(1, len(batch.answers), model.config.vocab_size)]
    assert all(parameter.grad is not None for parameter in model.parameters())
    forward = partial(model, input_ids=batch.ids, attention_mask=batch.mask)
    assert forward().logits.shape[:2] == (2, 42)  # the model is as it was
