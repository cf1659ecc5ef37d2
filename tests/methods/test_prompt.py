"""Prompt tuning against inputs put together by hand, and its room in sources, choices and bills."""

import pytest
import torch

from adaptbench.data.batching import collate, encode
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.methods.prompt import PromptTuning
from adaptbench.scoring.rank import token_log_probabilities
from tests.conftest import ARCHITECTURES
from tests.factories import toy_task

P = 3


@torch.no_grad()
def by_hand(backbone, row, delta, run):
    """Log-probabilities of each choice's tokens: embeddings concatenated, one choice at a time, nothing padded."""
    model, embed = backbone.model, backbone.model.get_input_embeddings()
    own = torch.tensor([[token for token in row.source if token >= 0]])
    prompts = {name: piece.vectors[run : run + 1] for name, piece in delta.pieces.items()}
    results = []
    for choice in row.choices:
        ids = torch.tensor([choice])
        if backbone.is_encoder_decoder:
            start = torch.full((1, 1), model.config.decoder_start_token_id)
            decoder = [embed(torch.cat([start, ids[:, :-1]], 1))]
            if "prompt/decoder" in prompts:
                decoder.insert(0, prompts["prompt/decoder"])
            source = torch.cat([prompts["prompt/encoder"], embed(own)], 1)
            logits = model(inputs_embeds=source, decoder_inputs_embeds=torch.cat(decoder, 1)).logits
        else:
            read = torch.cat([prompts["prompt/decoder"], embed(torch.cat([own, ids[:, :-1]], 1))], 1)
            logits = model(inputs_embeds=read).logits
        log_p = logits[0, -len(choice) :].log_softmax(-1)
        results.append(log_p.gather(1, ids.T)[:, 0])
    return results


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("decoder", [True, False])
def test_two_fused_prompts_equal_embeddings_put_together_by_hand(backbones, architecture, decoder):
    adaptation = PromptTuning(name="prompt", virtual_tokens=P, decoder=decoder).prepare(backbones[architecture], (1, 2))
    backbone = adaptation.backbone
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(4), "random")]
    assert all(row.source[:P] == (-1, -2, -3) for row in rows)
    batch = collate(rows * 2, backbone.pad_id)
    with torch.no_grad(), adaptation.attached():
        ours = token_log_probabilities(backbone, batch)
    assert not torch.allclose(ours[: len(rows)], ours[len(rows) :], atol=1e-4)
    for n, row in enumerate(rows * 2):
        for c, expected in enumerate(by_hand(backbone, row, adaptation.delta, n // len(rows))):
            assert (ours[n, c, : len(expected)] - expected).abs().max() < 2e-5


def test_gradients_reach_the_own_run_and_every_virtual_token(backbones):
    adaptation = PromptTuning(name="prompt", virtual_tokens=P).prepare(backbones["t5"], (1, 2))
    backbone = adaptation.backbone
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(4), "random")]
    with adaptation.attached():
        token_log_probabilities(backbone, collate(rows * 2, backbone.pad_id))[: len(rows)].sum().backward()
    for piece in adaptation.delta.pieces.values():
        assert (piece.vectors.grad[0] != 0).all()
        assert (piece.vectors.grad[1] == 0).all()


def test_prompts_start_as_embeddings_of_the_model(backbones):
    adaptation = PromptTuning(name="prompt", virtual_tokens=P).prepare(backbones["t5"], (1, 2))
    embeddings = backbones["t5"].model.get_input_embeddings().weight
    for piece in adaptation.delta.pieces.values():
        for vector in piece.vectors.flatten(0, 1):
            assert (embeddings == vector).all(1).any()
