"""Decoded answers are those of transformers' `generate`, row by row, and of repeated argmax under every method."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from adaptbench.data.batching import Batch
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.methods.base import Adaptation
from adaptbench.models.attention import PREFIXES
from adaptbench.models.backbone import Backbone, load_backbone
from adaptbench.scoring.shared_context import shared_context
from adaptbench.tasks.decoding import Decoding, decode, end_ids
from tests.conftest import WORDS, bpe_tokenizer
from tests.methods.peft_types import prepared
from tests.methods.roster import VARIANTS
from tests.models.architectures import ENCODER_DECODERS, SETTINGS, config_of, save_tiny
from tests.models.test_any_architecture import SCORED

MODELS = ("t5", "bart", "mbart", "m2m_100", "marian", "llama", "gpt2", "opt", "bloom", "falcon_rw", "mistral_windows")
UNKNOWN = ("gpt_neo", "mamba", "pegasus")  # to this program: nobody tried padding before their rows
LENGTHS = (9, 4, 7, 4)
ENDS = list(range(40, 2000, 13))  # so many that a random model's answers end now and then
LIMIT = 12

Rows = list[list[int]]


@pytest.fixture(scope="session")
def lively(tmp_path_factory: pytest.TempPathFactory):
    """lively(name): a random model whose answers vary and end, because its head is its own and many tokens end one."""

    @cache
    def make(name: str) -> tuple[Backbone, Path]:
        both_halves = name in (*ENCODER_DECODERS, "pegasus")
        tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=both_halves)
        if name in SETTINGS:
            config = config_of(name, len(tokenizer), tie_word_embeddings=False)
        else:
            config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **SCORED[name])
        folder = save_tiny(config, tokenizer, tmp_path_factory.mktemp(name))
        model = (AutoModelForSeq2SeqLM if both_halves else AutoModelForCausalLM).from_pretrained(folder)
        with torch.no_grad():  # a token should say less than all before it, or answers repeat it
            model.get_input_embeddings().weight.mul_(0.2)
        model.generation_config.eos_token_id = ENDS
        model.save_pretrained(folder)
        return load_backbone.__wrapped__(f"lively_{name}", str(folder), device="cpu"), folder

    return make


def rows_of(backbone: Backbone, lengths: Sequence[int] = LENGTHS) -> Rows:
    """Rows of random words, after the virtual tokens that a method wants before them."""
    torch.manual_seed(1)
    virtual = list(range(-1, -1 - backbone.virtual_tokens, -1))
    words = backbone.model.config.get_text_config().vocab_size
    return [virtual + torch.randint(5, words, (length,)).tolist() for length in lengths]


def batch_of(rows: Rows, already_read: int = 0) -> Batch:
    width = max(map(len, rows))
    source = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows])
    none = torch.zeros(len(rows), 1, 1, dtype=torch.long)
    return Batch(source, mask, none, none == 0, torch.zeros(len(rows), dtype=torch.long), already_read)


def before_end(ids: list[int], ends: Sequence[int]) -> tuple[int, ...]:
    return tuple(ids[: next((place for place, token in enumerate(ids) if token in ends), len(ids))])


def generated(model: Any, row: list[int], ends: Sequence[int], **settings: Any) -> tuple[int, ...]:
    """What transformers makes of one row, without padding; of a forced first token nothing is left."""
    ids = torch.tensor([row])
    search = {"do_sample": False, "eos_token_id": list(ends), "pad_token_id": 0, "max_new_tokens": LIMIT, **settings}
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **search)[0].tolist()
    skipped = 1 if model.config.is_encoder_decoder else len(row)
    return before_end(found[skipped + ("forced_bos_token_id" in settings) :], ends)


@torch.no_grad()
def by_argmax(backbone: Backbone, row: list[int], ends: Sequence[int], limit: int = LIMIT) -> tuple[int, ...]:
    """The likeliest token again and again, everything read anew each time: no cache, no batch, no mask."""
    model, answer = backbone.model, []
    virtual = list(range(-1, -1 - backbone.virtual_tokens_of_choice, -1))
    while len(answer) < limit:
        if backbone.is_encoder_decoder:
            read = torch.tensor([[*virtual, model.config.decoder_start_token_id, *answer]])
            inputs = {"input_ids": torch.tensor([row]), "decoder_input_ids": read}
        else:
            inputs = {"input_ids": torch.tensor([row + answer])}
        token = model(**inputs, use_cache=False).logits[0, -1].argmax().item()
        if token in ends:
            break
        answer.append(token)
    return tuple(answer)


def moved(adaptation: Adaptation) -> Adaptation:
    """Away from its start, where most methods change nothing."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adaptation.parameters:
            parameter.add_(torch.randn_like(parameter) * 0.5)
    return adaptation


def one_run(name: str, backbone: Backbone, fused: Adaptation, run: int) -> Adaptation:
    """One run of several, alone."""
    alone = VARIANTS[name].prepare(backbone, (7,)).folded()
    alone.delta.load_state_of(0, fused.delta.state_of(run))
    return alone


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("name", [*MODELS, *UNKNOWN])
def test_a_batch_of_unequal_rows_gives_what_generate_makes_of_each_alone(lively, name, beams):
    backbone, folder = lively(name)
    auto = AutoModelForSeq2SeqLM if backbone.is_encoder_decoder else AutoModelForCausalLM
    # Falcon's eager attention adds ALiBi to a mask that has it already (transformers 5.23); its default does not.
    own = auto.from_pretrained(folder, attn_implementation="sdpa" if name.startswith("falcon") else "eager").eval()
    rows = rows_of(backbone)
    expected = [generated(own, row, end_ids(backbone), num_beams=beams) for row in rows]
    assert len(set(expected)) > 1
    assert decode(backbone, batch_of(rows), Decoding(beams, LIMIT)) == expected


def test_answers_of_these_models_vary_and_some_end_before_the_limit(lively):
    found = []
    for backbone, _ in map(lively, MODELS):
        found += decode(backbone, batch_of(rows_of(backbone)), Decoding(1, LIMIT))
    assert len(set(found)) > len(found) // 2
    assert len({len(answer) for answer in found}) > 6


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", ["t5", "mbart", "llama"])
def test_fused_runs_of_every_method_give_what_each_run_alone_finds_by_repeated_argmax(lively, name, variant):
    backbone, _ = lively(name)
    fused, ends = moved(VARIANTS[variant].prepare(backbone, (1, 2, 3)).folded()), end_ids(backbone)
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


@pytest.mark.parametrize("variant", ["lora", "intrinsic_said", "unipelt_pt"])
@pytest.mark.parametrize("name", ["t5", "m2m_100", "mistral_windows"])
def test_beams_of_fused_runs_equal_those_of_a_run_alone(lively, name, variant):
    backbone, _ = lively(name)
    fused = moved(VARIANTS[variant].prepare(backbone, (1, 2, 3)).folded())
    rows = rows_of(fused.backbone)
    with fused.attached():
        found = decode(fused.backbone, batch_of(rows * 3), Decoding(3, LIMIT))
    assert len({tuple(found[run * len(rows) :][: len(rows)]) for run in range(3)}) > 1
    for run in range(3):
        alone = one_run(variant, backbone, fused, run)
        with alone.attached():
            expected = [decode(alone.backbone, batch_of([row]), Decoding(3, LIMIT))[0] for row in rows]
        assert found[run * len(rows) :][: len(rows)] == expected


def test_one_batch_serves_many_tasks_with_beams(lively):
    adaptation = moved(VARIANTS["unipelt_pt"].prepare(lively("t5")[0], (1, 2, 3)).folded())
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


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("name", ["mbart", "m2m_100"])
def test_a_forced_first_token_is_read_and_left_out_of_the_answer(lively, name, beams, length_penalty):
    backbone, folder = lively(name)
    own, rows = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), rows_of(backbone)
    search = {"forced_bos_token_id": 17} | ({"num_beams": 5, "length_penalty": length_penalty} if beams > 1 else {})
    expected = [generated(own, row, end_ids(backbone), **search) for row in rows]
    settings = Decoding(beams, LIMIT, length_penalty, forced_first=17)
    assert decode(backbone, batch_of(rows), settings) == expected
    assert decode(backbone, batch_of(rows), replace(settings, forced_first=None, max_new_tokens=LIMIT - 1)) != expected


def test_a_forced_first_token_comes_after_virtual_tokens(lively):
    backbone, _ = lively("mbart")
    adaptation = moved(VARIANTS["prompt"].prepare(backbone, (1,)))
    rows = rows_of(adaptation.backbone)
    with adaptation.attached():
        found = decode(adaptation.backbone, batch_of(rows), Decoding(1, LIMIT, forced_first=17))
        starts = replace(adaptation.backbone, model=StartsWith(adaptation.backbone.model, 17))
        assert found == [by_argmax(starts, row, ENDS, LIMIT - 1) for row in rows]


class StartsWith:
    """A model whose decoder reads one more token before every answer."""

    def __init__(self, model: Any, token: int):
        self.model, self.config, self.token = model, model.config, token

    def __call__(self, decoder_input_ids: torch.Tensor, **inputs: Any) -> Any:
        start = (decoder_input_ids == self.config.decoder_start_token_id).nonzero()[0, 1] + 1
        forced = torch.full_like(decoder_input_ids[:, :1], self.token)
        read = torch.cat([decoder_input_ids[:, :start], forced, decoder_input_ids[:, start:]], dim=1)
        return self.model(decoder_input_ids=read, **inputs)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "mistral_windows"])
def test_a_shared_context_gives_what_it_gives_in_the_prompt(lively, name, beams):
    backbone, _ = lively(name)
    rows = rows_of(backbone)
    context = rows_of(backbone, (11,))[0]
    expected = decode(backbone, batch_of([context + row for row in rows]), Decoding(beams, LIMIT))
    with shared_context(backbone, context):
        held = dict(PREFIXES)
        assert decode(backbone, batch_of(rows, len(context)), Decoding(beams, LIMIT)) == expected
        assert dict(PREFIXES) == held
    assert decode(backbone, batch_of(rows), Decoding(beams, LIMIT)) != expected


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_any_end_token_of_the_model_or_its_tokenizer_ends_an_answer(lively, name):
    backbone, _ = lively(name)
    model = copy.copy(backbone.model)
    model.generation_config = GenerationConfig(eos_token_id=[])
    endless, rows = replace(backbone, model=model, tokenizer=None), rows_of(backbone)
    whole = decode(endless, batch_of(rows), Decoding(1, LIMIT))
    assert [len(answer) for answer in whole] == [LIMIT] * len(rows)

    class Tokenizer:
        pad_token_id, eos_token_id = 0, whole[1][5]

    model.generation_config = GenerationConfig(eos_token_id=[whole[0][3], whole[2][7]])
    ends = (whole[0][3], whole[2][7], whole[1][5])
    ending = replace(endless, tokenizer=Tokenizer())
    found = decode(ending, batch_of(rows), Decoding(1, LIMIT))
    assert found == [before_end(list(answer), ends) for answer in whole]
    assert found != whole


@pytest.mark.parametrize("name", ["bart", "llama"])
def test_a_models_own_way_to_search_is_not_used_and_not_lost(lively, name):
    backbone, _ = lively(name)
    rows = rows_of(backbone)
    expected = {beams: decode(backbone, batch_of(rows), Decoding(beams, LIMIT)) for beams in (1, 3)}
    model = copy.copy(backbone.model)
    model.generation_config = own = GenerationConfig(
        do_sample=True, temperature=2.0, num_beams=4, repetition_penalty=5.0, no_repeat_ngram_size=1, min_length=9,
        length_penalty=-3.0, early_stopping=True, max_length=3, num_return_sequences=2, use_cache=False,
        eos_token_id=ENDS, decoder_start_token_id=3,
    )  # fmt: skip
    for beams, answers in expected.items():
        assert decode(replace(backbone, model=model), batch_of(rows), Decoding(beams, LIMIT)) == answers
    assert model.generation_config is own


def test_tokens_that_a_model_says_are_never_answers_stay_out(lively):
    """Marian's folders name the padding."""
    backbone, _ = lively("marian")
    rows = rows_of(backbone)
    first = decode(backbone, batch_of(rows), Decoding(1, LIMIT))[0][0]
    model = copy.copy(backbone.model)
    model.generation_config = GenerationConfig(eos_token_id=ENDS, bad_words_ids=[[first]])
    for beams in (1, 3):
        found = decode(replace(backbone, model=model), batch_of(rows), Decoding(beams, LIMIT))
        assert first not in {token for answer in found for token in answer}


def test_a_decoder_may_be_deeper_than_its_encoder(tmp_path):
    """There transformers' own cache lacks layers (5.23)."""
    tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=True)
    config = config_of("t5", len(tokenizer), num_decoder_layers=3, tie_word_embeddings=False)
    backbone = load_backbone.__wrapped__("deep", str(save_tiny(config, tokenizer, tmp_path)), device="cpu")
    rows = rows_of(backbone)
    expected = [by_argmax(backbone, row, end_ids(backbone)) for row in rows]
    assert decode(backbone, batch_of(rows), Decoding(1, LIMIT)) == expected


@pytest.mark.parametrize("name", ["t5", "llama"])
def test_half_precision_gives_what_generate_makes_of_it(lively, name):
    backbone, _ = lively(name)
    model = copy.deepcopy(backbone.model).to(torch.bfloat16)
    half, rows = replace(backbone, model=model, dtype=torch.bfloat16), rows_of(backbone)
    adaptation = VARIANTS["lora"].prepare(half, (1,))  # starts as no change
    with adaptation.attached():
        found = [decode(adaptation.backbone, batch_of([row]), Decoding(2, LIMIT))[0] for row in rows]
    assert found == [generated(model, row, end_ids(half), num_beams=2) for row in rows]


@pytest.mark.parametrize(("name", "fits"), [("gpt2", 512 - 9 + 1), ("mbart", 512)])
def test_answers_that_could_outgrow_the_positions_are_refused_in_one_line(lively, name, fits):
    backbone, _ = lively(name)
    short = batch_of(rows_of(backbone))
    with pytest.raises(InputError, match=f"max_new_tokens={fits + 1}: .* do not fit the 512 positions"):
        decode(backbone, short, Decoding(1, fits + 1))
    model = copy.copy(backbone.model)
    model.generation_config = GenerationConfig(eos_token_id=list(range(1, 2000)))
    assert decode(replace(backbone, model=model), short, Decoding(1, fits)) == [()] * len(LENGTHS)
