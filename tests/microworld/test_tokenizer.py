"""The tokenizer: closed vocabulary, lines kept apart, the marks each kind of model expects."""

import pytest
from transformers import AutoTokenizer

from adaptbench.microworld import tokenizer
from adaptbench.microworld.world import build


@pytest.fixture(params=[False, True], ids=["encoder_decoder", "decoder_only"])
def saved(request, tmp_path):
    tokenizer.build_tokenizer(decoder_only=request.param).save_pretrained(tmp_path)
    return request.param, AutoTokenizer.from_pretrained(tmp_path)


def test_marks_survive_saving(saved):
    decoder_only, tok = saved
    ids = tok("is it so ?").input_ids
    words = tok.convert_ids_to_tokens(ids)
    assert words == (["<s>", "is", "it", "so", "?"] if decoder_only else ["is", "it", "so", "?", "</s>"])


def test_any_run_of_newlines_is_one_token_and_case_and_punctuation_do_not_matter(saved):
    _, tok = saved
    ids = tok("Is it SO?\n\n the  cold", add_special_tokens=False).input_ids
    assert tok.convert_ids_to_tokens(ids) == ["is", "it", "so", "?", tokenizer.NEWLINE, "the", "cold"]


def test_a_prompt_is_a_prefix_of_prompt_and_choice(saved):
    _, tok = saved
    prompt, choice = f"the {build().nouns[0]}", " ran away"
    whole = tok(prompt + choice, add_special_tokens=False).input_ids
    assert whole == [*tok(prompt, add_special_tokens=False).input_ids, *tok(choice, add_special_tokens=False).input_ids]


def test_padding_and_sentinels_work(saved):
    _, tok = saved
    assert tok.pad_token_id == tokenizer.PAD
    batch = tok(["the cold", "the <extra_id_0> red cold"], padding=True)
    assert len({len(ids) for ids in batch.input_ids}) == 1
    assert tok.convert_tokens_to_ids("<extra_id_0>") in batch.input_ids[1]
    assert tokenizer.UNK not in batch.input_ids[1]


def test_fast_encoding_of_the_corpus_equals_the_tokenizer(saved):
    import random

    from adaptbench.microworld import stories

    _, tok = saved
    rng = random.Random(0)
    for _ in range(200):
        text = stories.story(build(), rng)
        assert tok(text, add_special_tokens=False).input_ids == tokenizer.encode(text)
