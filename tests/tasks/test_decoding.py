"""Decoded answers are those of transformers' `generate` for every row alone."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig

from adaptbench.errors import InputError
from adaptbench.models.attention import PREFIXES
from adaptbench.models.backbone import load_backbone
from adaptbench.scoring.shared_context import shared_context
from adaptbench.tasks.decoding import Decoding, decode, end_ids
from tests.conftest import WORDS, bpe_tokenizer
from tests.methods.roster import VARIANTS
from tests.models.architectures import config_of, save_tiny
from tests.tasks.answers import ENDS, LENGTHS, LIMIT, batch_of, before_end, by_argmax, generated, moved, rows_of

MODELS = ("t5", "bart", "mbart", "m2m_100", "marian", "llama", "gpt2", "opt", "bloom", "falcon_rw", "mistral_windows")
UNKNOWN = ("gpt_neo", "mamba", "pegasus")  # to this program: nobody tried padding before their rows


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
