"""Answers are those of transformers' question-answering pipeline.

transformers 5 has no such pipeline. What transformers 4.57.1 answered is in pipeline_answers.json: its logits of tiny
random models on the windows of `bert_tokenizer` and `roberta_tokenizer`, and its five best answers. Besides, the
algorithm is compared with a search of all spans on the logits of `BertForQuestionAnswering`.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForQuestionAnswering

from adaptbench.data.best_spans import best_answers
from adaptbench.data.texts import pad_texts
from adaptbench.data.windows import encode_windows
from tests.data.test_windows import CONTEXT, QUESTION, TOKENIZERS, reader
from tests.models.bare import bert_tokenizer, save_bare

RECORDED = json.loads((Path(__file__).parent / "pipeline_answers.json").read_text())["cases"]


@pytest.mark.parametrize("case", RECORDED, ids=lambda case: f"{case['tokenizer']}-{case['options']}")
def test_answers_are_those_that_the_pipeline_gave_to_the_same_logits(case):
    names = {
        "max_answer_len": "max_tokens",
        "handle_impossible_answer": "unanswerable",
        "align_to_words": "whole_words",
    }
    options = {names[name]: value for name, value in case["options"].items()}
    backbone = reader(TOKENIZERS[case["tokenizer"]](), case["max_length"])
    windows = encode_windows(backbone, case["question"], case["context"], case["stride"])
    assert [len(window.ids) for window in windows] == [len(row) for row in case["start"]]
    answers = best_answers(windows, case["context"], case["start"], case["end"], count=5, **options)
    assert [answer.text for answer in answers] == [text.strip() for text, *_ in case["answers"]]
    assert [case["context"][slice(*answer.span)] for answer in answers] == [answer.text for answer in answers]
    assert all(s <= a.span[0] <= a.span[1] <= e for a, (_, s, e, _) in zip(answers, case["answers"], strict=True))
    assert [answer.score for answer in answers] == pytest.approx([score for *_, score in case["answers"]], rel=1e-3)


def test_the_pipeline_was_asked_what_matters():
    """Several windows, one only, no answer, long and short ones, answers found in two windows, words cut in two."""
    assert {len(case["start"]) for case in RECORDED} >= {1, 3, 10}
    assert {name for case in RECORDED for name in case["options"]} == {
        "max_answer_len", "handle_impossible_answer", "align_to_words"
    }  # fmt: skip
    assert {case["tokenizer"] for case in RECORDED} == set(TOKENIZERS)


@pytest.fixture(scope="module")
def question_answering(tmp_path_factory):
    folder = save_bare("bert", tmp_path_factory.mktemp("bert"))
    torch.manual_seed(4)
    model = AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    torch.nn.init.normal_(model.qa_outputs.weight, std=0.5)
    return model


@torch.no_grad()
def test_answers_equal_a_search_of_all_spans_on_the_models_logits(question_answering):
    """Right across windows, padding, scores and their order; equal answers add up. Whole words by hand."""
    windows = encode_windows(reader(bert_tokenizer()), QUESTION, CONTEXT, 12)
    ids, mask, types = pad_texts(windows, 0)
    out = question_answering(input_ids=ids, attention_mask=mask.long(), token_type_ids=types)
    found: dict[str, float] = {}
    for row, window in enumerate(windows):
        kept = [window.null, *window.positions]
        start, end = (
            dict(zip(kept, logits[row, kept].double().softmax(0).tolist(), strict=True))
            for logits in (out.start_logits, out.end_logits)
        )
        scored = []
        for i, first in enumerate(window.positions):
            for j in range(i, min(i + 6, len(window.offsets))):
                last = window.positions[j]
                text = CONTEXT[window.offsets[i][0] : window.offsets[j][1]]
                scored.append((start[first] * end[last], text))
        for score, text in sorted(scored, reverse=True)[:3]:
            found[text.lower()] = found.get(text.lower(), 0) + score
    best = sorted(found.items(), key=lambda item: -item[1])[:3]
    answers = best_answers(
        windows, CONTEXT, out.start_logits.numpy(), out.end_logits.numpy(), count=3, max_tokens=6, whole_words=False
    )
    assert len(windows) > 3
    assert [answer.text.lower() for answer in answers] == [text for text, _ in best]
    assert [answer.score for answer in answers] == pytest.approx([score for _, score in best], rel=1e-5)
    assert all(CONTEXT[slice(*answer.span)] == answer.text for answer in answers)


def test_only_the_context_answers_and_nothing_ends_before_it_starts():
    (window,) = encode_windows(reader(bert_tokenizer(), 400), QUESTION, CONTEXT)
    start, end = np.zeros(len(window.ids)), np.zeros(len(window.ids))
    start[: window.first] = end[: window.first] = 30.0  # the question
    first, last = window.positions[10], window.positions[3]
    start[first] = end[last] = 20.0
    (answer,) = best_answers([window], CONTEXT, [start], [end], whole_words=False)
    assert 0 < answer.score < 0.1
    assert answer.span[0] == window.offsets[10][0] or answer.span[1] == window.offsets[3][1]
    assert answer.span[0] < answer.span[1]
    padded = [np.concatenate([values, np.full(7, 99.0)]) for values in (start, end)]
    assert best_answers([window], CONTEXT, [padded[0]], [padded[1]], whole_words=False) == [answer]


def test_no_answer_is_as_probable_as_where_it_is_least_so():
    windows = encode_windows(reader(bert_tokenizer()), QUESTION, CONTEXT, 12)[:2]
    logits = [np.zeros(len(window.ids)) for window in windows]
    logits[0][0] = logits[1][0] = 50.0
    (answer,) = best_answers(windows, CONTEXT, logits, logits, unanswerable=True)
    assert (answer.text, answer.span) == ("", (0, 0))
    assert answer.score == pytest.approx(1.0)
    logits[1][windows[1].positions[4]] = 53.0
    (answer,) = best_answers(windows, CONTEXT, logits, logits, unanswerable=True)
    assert answer.text
    assert not best_answers(windows, CONTEXT, logits, logits, unanswerable=True, count=9)[-1].score > 0.01
