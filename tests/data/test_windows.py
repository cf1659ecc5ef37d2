"""Windows are those of transformers' tokenizers, and answers are found again where they stand in them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from adaptbench.data.best_spans import best_answers
from adaptbench.data.squad import squad_rows
from adaptbench.data.windows import answer_positions, encode_windows
from adaptbench.errors import InputError, RowError
from tests.conftest import bpe_tokenizer
from tests.models.bare import bert_tokenizer, roberta_tokenizer
from tests.scoring.tokenizers import sentencepiece

QUESTION = "was it the house?"
CONTEXT = (
    "The cat sat on the large red mat, and a small dog ran to the house. Given that it was blue, we can say no: the "
    "dog is bad. Maybe the question was good; the answer is entailed by the premise, not by the Hypothesis! Yes, it is "
    "true."
)
TOKENIZERS = {"bert": bert_tokenizer, "roberta": roberta_tokenizer}


def reader(tokenizer, max_length=40, virtual_tokens=0, overlong="refuse"):
    return SimpleNamespace(
        tokenizer=tokenizer, max_length=max_length, virtual_tokens=virtual_tokens, overlong=overlong, pad_id=0
    )


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize(("max_length", "stride"), [(40, 12), (40, 0), (33, 20), (512, 128)])
def test_windows_are_those_of_the_tokenizer(name, max_length, stride):
    tokenizer = TOKENIZERS[name]()
    found = tokenizer(
        QUESTION, CONTEXT, truncation="only_second", max_length=max_length, stride=stride,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    windows = encode_windows(reader(tokenizer, max_length), QUESTION, CONTEXT, stride)
    assert [list(window.ids) for window in windows] == found["input_ids"]
    assert [list(window.types) for window in windows] == found["token_type_ids"]
    assert len(windows) == 1 or max_length < 512
    for index, window in enumerate(windows):
        theirs = [
            (position, span)
            for position, (span, part) in enumerate(
                zip(found["offset_mapping"][index], found.sequence_ids(index), strict=True)
            )
            if part == 1
        ]
        assert list(zip(window.positions, window.offsets, strict=True)) == theirs
        assert window.ids[window.null] == tokenizer.cls_token_id


def test_virtual_tokens_shift_every_position_and_take_room():
    tokenizer = bert_tokenizer()
    plain = encode_windows(reader(tokenizer, 40), QUESTION, CONTEXT, 12)
    moved = encode_windows(reader(tokenizer, 45, virtual_tokens=5), QUESTION, CONTEXT, 12)
    assert [window.ids for window in moved] == [(-1, -2, -3, -4, -5, *window.ids) for window in plain]
    assert [window.types for window in moved] == [(0, 0, 0, 0, 0, *window.types) for window in plain]
    assert [window.null for window in moved] == [5] * len(plain)
    start = CONTEXT.index("red mat")
    span = (start, start + len("red mat"))
    shifted = [(first + 5, last + 5) for first, last in answer_positions(plain, span)]
    assert answer_positions(moved, span) == shifted
    assert any(first > 5 for first, _ in shifted)
    assert all(len(w.ids) <= 45 for w in moved)
    rng = np.random.default_rng(0)
    logits = [rng.normal(size=(2, len(window.ids))) for window in plain]
    wide = [np.concatenate([rng.normal(50, 9, size=(2, 5)), values], axis=1) for values in logits]  # never chosen
    answers = [
        best_answers(windows, CONTEXT, *zip(*values, strict=True), count=4)
        for windows, values in ((plain, logits), (moved, wide))
    ]
    assert answers[0] == answers[1]


def test_an_answer_that_a_window_does_not_hold_whole_is_its_null_position():
    windows = encode_windows(reader(bert_tokenizer()), QUESTION, CONTEXT, 3)
    edge = windows[0].offsets[-1]  # the last token of the first window and the first that it has no more
    after = windows[1].offsets[3]
    positions = answer_positions(windows, (edge[0], after[1]))
    assert positions[0] == (0, 0)
    assert positions[1] == (windows[1].first + 2, windows[1].first + 3)
    assert set(positions[2:]) == {(0, 0)}
    assert answer_positions(windows, None) == [(0, 0)] * len(windows)
    with pytest.raises(ValueError, match="no token of the context"):
        answer_positions(windows, (3, 4))  # a blank


def test_text_that_looks_like_a_mark_stays_text_and_offsets_are_those_of_the_text():
    context = "the cat [SEP] sat on </s> the mat <s><s> a dog"
    tokenizers = {"bert": bert_tokenizer(), "roberta": roberta_tokenizer(), "sentencepiece": sentencepiece()}
    for name, tokenizer in tokenizers.items():
        (window,) = encode_windows(reader(tokenizer, 400), "[CLS] was </s> it?", context)
        marks = {"bert": 3, "roberta": 4, "sentencepiece": 1}[name]
        assert (
            sum(index in tokenizer.all_special_ids and index != tokenizer.unk_token_id for index in window.ids) == marks
        )
        start = context.index("a dog")
        ((first, last),) = answer_positions([window], (start, len(context)))
        logits = [np.where(np.arange(len(window.ids)) == place, 9.0, 0.0) for place in (first, last)]
        (answer,) = best_answers([window], context, logits[:1], logits[1:])
        assert answer.text == "a dog", name


def test_texts_without_marks_between_them_are_put_on_two_lines():
    tokenizer = bpe_tokenizer([CONTEXT] * 4, end_of_sequence=False)
    (window,) = encode_windows(reader(tokenizer, 400), QUESTION, CONTEXT)
    assert [*window.ids] == tokenizer(f"{QUESTION}\n")["input_ids"] + tokenizer(CONTEXT)["input_ids"]
    assert set(window.types) == {0}
    spans = {CONTEXT[slice(*span)] for span in window.offsets}
    assert "".join(CONTEXT[slice(*span)] for span in window.offsets) == CONTEXT
    assert any(text.startswith(" ") for text in spans)
    logits = np.zeros(len(window.ids))
    logits[window.first + next(i for i, s in enumerate(window.offsets) if CONTEXT[slice(*s)] == " dog")] = 9.0
    assert best_answers([window], CONTEXT, [logits], [logits])[0].text == "dog"


def test_a_question_that_leaves_no_room_is_refused_or_cut():
    tokenizer = bert_tokenizer()
    long = "was it the cat " * 40  # 320 tokens of this tokenizer
    with pytest.raises(InputError, match=r"squad, row 7: a question of 320 tokens leaves -223 of model.max_length=100"):
        encode_windows(reader(tokenizer, 100), long, CONTEXT, 10, "squad, row 7")
    windows = encode_windows(reader(tokenizer, 100, overlong="truncate"), long, CONTEXT, 10)
    assert {window.truncated for window in windows} == {320 - 64}
    assert all(len(window.ids) <= 100 for window in windows)
    with pytest.raises(InputError, match=r"expected more than dataset\.stride=34"):
        encode_windows(reader(tokenizer, 40), QUESTION, CONTEXT, 34)
    for question, context, what in ((" ", CONTEXT, "question"), (QUESTION, " ", "context")):
        with pytest.raises(InputError, match=f"no tokens for the {what}"):
            encode_windows(reader(tokenizer), question, context)


def test_a_tokenizer_that_gives_no_places_is_refused(monkeypatch):
    tokenizer = bert_tokenizer()
    monkeypatch.setattr(type(tokenizer), "is_fast", False)
    with pytest.raises(InputError, match="does not say where its tokens stand"):
        encode_windows(reader(tokenizer), QUESTION, CONTEXT)


@pytest.fixture(scope="module")
def xquad(real_data):
    path = real_data / "squad" / "xquad.en.json"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return list(squad_rows(json.loads(path.read_text(encoding="utf-8")), path))


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_every_answer_of_xquad_is_found_again_at_its_positions(xquad, kind):
    """Real questions: logits that point at the answer's tokens give its text back, up to the ends of its words."""
    tokenizer = TOKENIZERS[kind]()
    whole = 0
    for row in xquad[::4]:
        text, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        windows = encode_windows(reader(tokenizer, 384), row["question"], row["context"], 128)
        positions = answer_positions(windows, (start, start + len(text)))
        logits = [
            [
                np.where(np.arange(len(window.ids)) == place, 40.0, 0.0)
                for window, place in zip(windows, places, strict=True)
            ]
            for places in zip(*positions, strict=True)
        ]
        best = best_answers(windows, row["context"], *logits, max_tokens=200, whole_words=False)
        length = next((last - first for first, last in positions if last), None)
        if length is None:  # longer than what two windows have in common
            continue
        whole += 1
        assert text in best[0].text
        assert len(best[0].text) - len(text) < 8, (text, best[0].text)
    assert whole > 290


def test_xquad_is_read_whole(xquad):
    assert len(xquad) == 1190
    assert len({row["context"] for row in xquad}) == 240
    first = xquad[0]
    assert first["answers"] == {"text": ["308"], "answer_start": [34]}
    assert first["title"] == "Super_Bowl_50"


def squad(context="The cat sat.", **answer):
    question = {"id": "q1", "question": "Who sat?", "answers": [{"text": "cat", "answer_start": 4, **answer}]}
    return {"data": [{"title": "t", "paragraphs": [{"context": context, "qas": [question]}]}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], 'expected {"data"'),
        ({"data": [{"title": "t"}]}, "f.json, article 0: 'paragraphs' is None, expected list"),
        (squad(answer_start=5), "question 'q1': the answer 'cat' is not at character 5 of the context: 'at sat.'"),
        (squad(text=""), "an answer without text"),
        (squad(answer_start="4"), "'answer_start' is '4', expected int"),
        ({"data": squad()["data"] * 2}, "article 1, question 'q1': the same id twice"),
    ],
)
def test_a_file_that_is_not_as_squad_has_it_is_refused_with_the_place(content, message):
    with pytest.raises(RowError) as caught:
        list(squad_rows(content, "f.json"))
    assert message in str(caught.value)


def test_a_question_without_an_answer_has_none():
    content = squad()
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"] = []
    assert next(squad_rows(content, "f.json"))["answers"] == {"text": [], "answer_start": []}
