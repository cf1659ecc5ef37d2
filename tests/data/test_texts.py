"""Rows of texts and pairs are those of transformers' tokenizers; text that looks like a mark stays text."""

from types import SimpleNamespace

import pytest

from adaptbench.data.texts import encode_text, pad_texts
from adaptbench.errors import InputError
from tests.conftest import bpe_tokenizer
from tests.models.bare import bert_tokenizer, roberta_tokenizer

SHORT, LONG = "a dog ran", "the cat sat on the large red mat and it was good"
TEXTS = [(SHORT, None), (LONG, None), (SHORT, LONG), (LONG, SHORT), (SHORT, SHORT), (LONG, LONG + " maybe")]
KINDS = {
    "bert": bert_tokenizer,
    "roberta": roberta_tokenizer,
    "t5": lambda: bpe_tokenizer([LONG] * 4, end_of_sequence=True),
}


def reader(tokenizer, max_length=200, virtual_tokens=0, overlong="truncate"):
    return SimpleNamespace(
        tokenizer=tokenizer, max_length=max_length, virtual_tokens=virtual_tokens, overlong=overlong, pad_id=0
    )


@pytest.mark.parametrize("kind", ["bert", "roberta"])
@pytest.mark.parametrize("max_length", [200, *range(6, 24)])
def test_rows_and_types_are_those_of_the_tokenizer_cut_where_it_cuts(kind, max_length):
    tokenizer = KINDS[kind]()
    cut = 0
    for first, second in TEXTS:
        theirs = tokenizer(first, second, truncation=True, max_length=max_length, return_token_type_ids=True)
        ours = encode_text(reader(tokenizer, max_length), first, second)
        assert list(ours.ids) == theirs["input_ids"]
        assert list(ours.types) == theirs["token_type_ids"]
        cut += ours.truncated
    assert (cut > 0) == (max_length < 200)


def test_a_t5_marks_the_end_of_a_text_and_two_texts_without_marks_stand_on_two_lines():
    tokenizer = KINDS["t5"]()
    assert encode_text(reader(tokenizer), SHORT).ids == tuple(tokenizer(SHORT)["input_ids"])
    plain = bpe_tokenizer([LONG] * 4, end_of_sequence=False)
    assert encode_text(reader(plain), SHORT, LONG).ids == tuple(plain(f"{SHORT}\n{LONG}")["input_ids"])


@pytest.mark.parametrize("kind", KINDS)
def test_virtual_tokens_stand_before_all_and_take_room(kind):
    tokenizer = KINDS[kind]()
    for first, second in TEXTS:
        plain = encode_text(reader(tokenizer, 20), first, second)
        moved = encode_text(reader(tokenizer, 23, virtual_tokens=3), first, second)
        assert moved.ids == (-1, -2, -3, *plain.ids)
        assert moved.types == (0, 0, 0, *plain.types)


@pytest.mark.parametrize("kind", KINDS)
def test_names_of_marks_in_a_text_are_no_marks(kind):
    tokenizer = KINDS[kind]()
    for second in (None, SHORT):
        plain = encode_text(reader(tokenizer), "a dog", second)
        ours = encode_text(reader(tokenizer), "a [SEP] dog </s> <s> [CLS]", second)
        special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
        assert [index for index in ours.ids if index in special] == [index for index in plain.ids if index in special]


def test_what_does_not_fit_is_refused_with_the_way_out():
    tokenizer = bert_tokenizer()
    with pytest.raises(
        InputError, match=r"glue, row 3: \d+ tokens do not fit model\.max_length=12 \(model\.overlong=truncate shortens"
    ):
        encode_text(reader(tokenizer, 12, overlong="refuse"), SHORT, LONG, "glue, row 3")
    with pytest.raises(InputError, match=r"do not fit model\.max_length=4$"):
        encode_text(reader(tokenizer, 4), SHORT, LONG)
    with pytest.raises(InputError, match="row 1: the tokenizer returns no tokens"):
        encode_text(reader(tokenizer), " ", None, "row 1")


def test_rows_are_padded_on_the_right():
    tokenizer = bert_tokenizer()
    rows = [encode_text(reader(tokenizer), *texts) for texts in TEXTS]
    ids, mask, types = pad_texts(rows, 0)
    assert ids.shape == mask.shape == types.shape == (6, max(len(row.ids) for row in rows))
    for n, row in enumerate(rows):
        assert ids[n].tolist() == [*row.ids, *[0] * (ids.shape[1] - len(row.ids))]
        assert types[n, : len(row.types)].tolist() == list(row.types)
        assert mask[n].sum() == len(row.ids)
        assert mask[n, : len(row.ids)].all()
