"""Scoring all choices of many prompts in one pass equals scoring each alone with the plain model."""

import pytest
import torch

from adaptbench.data.batching import collate, encode
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.scoring.rank import token_log_probabilities
from tests.conftest import ARCHITECTURES
from tests.factories import toy_task


def alone(backbone, row, choice):
    """Log-probabilities of one choice's tokens from an ordinary forward pass: no padding, no packing, no mask."""
    target = torch.tensor([choice])
    if backbone.is_encoder_decoder:
        logits = backbone.model(input_ids=torch.tensor([row.source]), labels=target).logits
    else:
        sequence = torch.tensor([[*row.source, *choice]])
        logits = backbone.model(input_ids=sequence).logits[:, len(row.source) - 1 : -1]
    return logits.log_softmax(-1).gather(2, target[..., None])[0, :, 0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("choices", ["yes ||| no ||| maybe not so", "yes ||| no", "a good dog ||| the house was red"])
def test_packed_choices_equal_each_choice_alone(exact, architecture, choices):
    backbone = exact[architecture]
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(9, choices), "random")]
    assert len({len(row.source) for row in rows}) > 1
    with torch.inference_mode():
        packed = token_log_probabilities(backbone, collate(rows, backbone.pad_id))
        for n, row in enumerate(rows):
            for c, choice in enumerate(row.choices):
                expected = alone(backbone, row, choice)
                assert torch.allclose(packed[n, c, : len(choice)], expected, atol=1e-5, rtol=0)
                assert (packed[n, c, len(choice) :] == 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_may_have_different_numbers_of_choices(exact, architecture):
    backbone = exact[architecture]
    two = [encode(backbone, p) for p in evaluation_prompts(toy_task(3, "yes ||| no"), "random")]
    four = [encode(backbone, p) for p in evaluation_prompts(toy_task(3, "yes ||| no ||| a ||| red dog"), "random")]
    with torch.inference_mode():
        mixed = token_log_probabilities(backbone, collate(two + four, backbone.pad_id))
        separate = token_log_probabilities(backbone, collate(two, backbone.pad_id))
    length = separate.shape[2]
    assert torch.allclose(mixed[:3, :2, :length], separate, atol=1e-5, rtol=0)
    assert (mixed[:3, 2:] == 0).all()
