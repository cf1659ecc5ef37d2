"""Under every method a batch of runs gives what repeated argmax gives for each row of each run alone."""

import pytest
import torch

from adaptbench.methods import METHODS
from adaptbench.methods.base import Adaptation
from adaptbench.models.backbone import Backbone
from adaptbench.tasks.decoding import Decoding, decode, end_ids
from tests.methods.peft_types import prepared
from tests.methods.roster import VARIANTS
from tests.tasks.answers import LENGTHS, LIMIT, batch_of, by_argmax, generated, moved, rows_of


def one_run(name: str, backbone: Backbone, fused: Adaptation, run: int) -> Adaptation:
    """One run of several, alone."""
    alone = VARIANTS[name].prepare(backbone, (7,)).for_inference()
    alone.delta.load_state_of(0, fused.delta.state_of(run))
    return alone


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["t5", "mbart", "llama"])
def test_fused_runs_of_every_method_give_what_each_run_alone_finds_by_repeated_argmax(lively, name, variant):
    backbone, _ = lively(name)
    fused, ends = moved(VARIANTS[variant].prepare(backbone, (1, 2, 3)).for_inference()), end_ids(backbone)
    rows = rows_of(fused.backbone, LENGTHS[:2])
    with fused.attached():
        found = decode(fused.backbone, batch_of(rows * 3), Decoding(1, 8))
    expected = []
    for run in range(3):
        alone = one_run(variant, backbone, fused, run)
        with alone.attached():
            expected += [by_argmax(alone.backbone, row, ends, 8) for row in rows]
    assert found == expected
    assert len({tuple(expected[run * 2 :][:2]) for run in range(3)}) > 1


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_beams_of_fused_runs_of_every_method_equal_those_of_a_run_alone(lively, name, variant):
    assert_runs_find_the_same_alone(lively(name)[0], variant, runs=2, beams=5, limit=6)


@pytest.mark.parametrize("variant", ["lora", "intrinsic_said", "unipelt_pt"])
@pytest.mark.parametrize("name", ["m2m_100", "mistral_windows"])
def test_beams_of_fused_runs_equal_those_of_a_run_alone_in_other_models(lively, name, variant):
    assert_runs_find_the_same_alone(lively(name)[0], variant, runs=3, beams=3, limit=LIMIT)


def assert_runs_find_the_same_alone(backbone: Backbone, variant: str, runs: int, beams: int, limit: int) -> None:
    fused = moved(VARIANTS[variant].prepare(backbone, tuple(range(runs))).for_inference())
    rows, search = rows_of(fused.backbone), Decoding(beams, limit)
    with fused.attached():
        found = decode(fused.backbone, batch_of(rows * runs), search)
    assert len({tuple(found[run * len(rows) :][: len(rows)]) for run in range(runs)}) > 1
    for run in range(runs):
        alone = one_run(variant, backbone, fused, run)
        with alone.attached():
            expected = [decode(alone.backbone, batch_of([row]), search)[0] for row in rows]
        assert found[run * len(rows) :][: len(rows)] == expected


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("variant", ["lora", "adapter", "bitfit", "ia3", "layernorm", "compacter", "prefix"])
@pytest.mark.parametrize("name", ["t5", "mbart", "llama"])
def test_a_method_without_virtual_tokens_gives_what_generate_makes_of_the_adapted_model(lively, name, variant, beams):
    """The library's own call, with nothing but the method's hooks in the model."""
    backbone, _ = lively(name)
    adaptation = moved(VARIANTS[variant].prepare(backbone, (1,)).for_inference())
    rows = rows_of(backbone)
    with adaptation.attached():
        found = decode(adaptation.backbone, batch_of(rows), Decoding(beams, LIMIT))
        expected = [generated(backbone.model, row, end_ids(backbone), num_beams=beams) for row in rows]
    assert found == expected
    assert found != decode(backbone, batch_of(rows), Decoding(beams, LIMIT))


def test_one_batch_serves_many_tasks_with_beams(lively):
    adaptation = moved(VARIANTS["unipelt_pt"].prepare(lively("t5")[0], (1, 2, 3)).for_inference())
    backbone, tasks = adaptation.backbone, [2, 0, 1, 2]
    rows = rows_of(backbone)
    with adaptation.serving(torch.tensor(tasks)):
        mixed = decode(backbone, batch_of(rows), Decoding(2, LIMIT))
    with adaptation.attached():
        every = decode(backbone, batch_of(rows * 3), Decoding(2, LIMIT))
    assert mixed == [every[task * len(rows) + row] for row, task in enumerate(tasks)]


@pytest.mark.parametrize("kind", ["full_ft", "fish_mask"])
@pytest.mark.parametrize("name", ["t5", "gpt2"])
def test_tuned_weights_give_what_they_find_by_repeated_argmax(lively, name, kind):
    backbone, _ = lively(name)
    adaptation, rows = moved(METHODS[kind](name=kind).prepare(backbone, (1,))), rows_of(backbone)
    with adaptation.attached():
        found = decode(adaptation.backbone, batch_of(rows), Decoding(1, LIMIT))
        assert found == [by_argmax(adaptation.backbone, row, end_ids(backbone)) for row in rows]
    assert found != decode(backbone, batch_of(rows), Decoding(1, LIMIT))


WRAPPED = [
    *((kind, "llama") for kind in ("LORA", "ADAPTION_PROMPT", "POLY", "MULTITASK_PROMPT_TUNING", "CARTRIDGE")),
    *((kind, name) for kind in ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING") for name in ("t5", "llama", "gpt2")),
    *((kind, "t5") for kind in ("LORA", "POLY")),
]


@pytest.mark.parametrize(("kind", "name"), WRAPPED)
def test_a_model_that_peft_wraps_gives_what_it_finds_by_repeated_argmax(lively, kind, name):
    adaptation = prepared(kind, lively(name)[0])
    backbone, rows = adaptation.backbone, rows_of(lively(name)[0])
    found = decode(backbone, batch_of(rows), Decoding(1, 8))
    assert found == [by_argmax(backbone, row, end_ids(backbone), 8) for row in rows]
    beams = decode(backbone, batch_of(rows), Decoding(3, 8))
    assert beams == [decode(backbone, batch_of([row]), Decoding(3, 8))[0] for row in rows]
