"""Texts laid end to end have the states and gradients of padded ones, under every method that encoders can have."""

from dataclasses import replace

import pytest
import torch

from adaptbench.models import packed_rows
from adaptbench.models.encoders import hidden_states, pooled
from adaptbench.models.packed_rows import CALLS
from adaptbench.models.packed_texts import PACKABLE
from tests.methods.roster import DELTAS_UNDER_A_HEAD, VARIANTS, method_on_encoders
from tests.models.bare import doubled, rows_of


@pytest.fixture
def exact(bare):
    """exact(name): the same bare model in double precision; new parameters are double, too."""
    torch.set_default_dtype(torch.float64)
    yield lambda name: doubled(bare(name))
    torch.set_default_dtype(torch.float32)


@pytest.fixture(params=[0, CALLS], ids=["each row alone", "as shipped"])
def grouping(request, monkeypatch):
    """Attention takes every row by itself, or similar rows together."""
    monkeypatch.setattr(packed_rows, "CALLS", request.param)


def moved(adaptation):
    """Away from where methods start, so that none is the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adaptation.parameters:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    return adaptation


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", PACKABLE)
def test_states_of_all_tokens_are_those_of_padded_rows(exact, name, side, grouping):
    encoder = exact(name)
    source, mask, types = rows_of(encoder)
    if side == "left":
        shift = mask.shape[1] - mask.sum(1, keepdim=True)
        order = (torch.arange(mask.shape[1]) - shift) % mask.shape[1]
        source, mask, types = (each.gather(1, order) for each in (source, mask, types))
    with torch.inference_mode():
        padded = hidden_states(encoder, source, mask, types)
        packed = hidden_states(replace(encoder, packs_rows=True), source, mask, types)
    assert (padded - packed)[mask].abs().max() < 1e-10
    assert padded[mask].std() > 0.1


@pytest.mark.parametrize("name", PACKABLE)
@pytest.mark.parametrize("variant", [*VARIANTS, *DELTAS_UNDER_A_HEAD])
def test_pooled_states_and_gradients_are_those_of_padded_rows(exact, name, variant):
    """Three runs of two texts each, some runs longer than others."""
    adaptation = moved(method_on_encoders(variant).prepare(exact(name), (3, 11, 7)))
    padded, packed = adaptation.backbone, replace(adaptation.backbone, packs_rows=True)
    rows = rows_of(padded)
    found = []
    for encoder in (padded, packed):
        for parameter in adaptation.parameters:
            parameter.grad = None
        with adaptation.attached():
            states = pooled(encoder, *rows)
            (states * torch.arange(states.numel()).view(states.shape).sin()).sum().backward()
        found.append((states.detach(), [parameter.grad.clone() for parameter in adaptation.parameters]))
    (one, gradients), (other, own) = found
    assert (one - other).abs().max() < 1e-6  # some parts compute in single precision
    for mine, theirs in zip(gradients, own, strict=True):
        assert (mine - theirs).abs().max() < 1e-5 * max(1.0, float(mine.abs().max()))


def test_dropout_of_attention_is_that_of_its_weights():
    """Half precision on a CPU: the share that is dropped, and the rest larger by as much."""
    from adaptbench.models.cpu_attention import attend

    torch.manual_seed(0)
    query = torch.zeros(1, 1, 64, 8, dtype=torch.bfloat16)
    value = torch.ones(1, 1, 64, 8, dtype=torch.bfloat16)
    found = attend(query, query, value, None, None, dropout=0.25).float()
    assert found.mean().item() == pytest.approx(1.0, abs=0.03)
    assert found.std() > 0.01
    assert (attend(query, query, value, None, None) == 1).all()
