"""From rows to answers: those of the library's question-answering model under its pipeline's algorithm, written out.

transformers 5 has no such pipeline ("question-answering" is not one of its tasks). `best_answers_by_search` does what
that of transformers 4 is documented to do: in every window of the tokenizer's own, the probability of a span is the
product of those of its start and its end among the context's tokens and the null position; words that tokens cut are
made whole; equal answers of several windows add up. `tests/data/test_best_spans.py` has answers that it really gave.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import AutoModelForQuestionAnswering

from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import SPLIT
from adaptbench.methods.base import Adaptation
from adaptbench.models.encoders import Encoder
from adaptbench.scoring.evaluate import evaluate
from adaptbench.tasks.spans import NBEST, EncodedWindows, QuestionTemplate, Spans
from tests.factories import recipe
from tests.methods.roster import VARIANTS

SEEDS = (3, 11)
STRIDE, LONGEST, LENGTH = 9, 6, 40  # tokens that windows share, of an answer, and of a window
QUESTION = "was it the house?"
CONTEXTS = (
    "The cat sat on the large red mat, and a small dog ran to the house. Given that it was blue, we can say no: "
    "the dog is bad. Maybe the question was good; the answer is entailed by the premise, not by the Hypothesis!",
    "A dog ran.",
    "It was the large house that the blue cat ran to; given that, we say the small dog is good and the mat is red.",
)
ANSWERS = ("small dog", "dog", "blue cat")
NAMES = ("bert", "roberta", "deberta_v3")


def task_of() -> TaskData:
    """Contexts of one window and of several."""
    rows = []
    for index, (context, answer) in enumerate(zip(CONTEXTS, ANSWERS, strict=True)):
        fields = {"q": QUESTION, "context": context, "references": [answer]}
        rows.append(Example(f"row{index}", {**fields, "starts": [context.index(answer)]}))
    template = QuestionTemplate("toy", "plain", f"{{{{q}}}}{SPLIT}", "")
    return TaskData("toy", 2, rows, rows, [template], type=Spans(STRIDE, LONGEST))


@pytest.fixture
def reader(bare) -> Callable[[str], Encoder]:
    return lambda name: replace(bare(name), max_length=LENGTH)


def head_of(encoder: Encoder) -> Any:
    head: Any = encoder.head
    return head.pieces["head"]


@torch.no_grad()
def model_of(encoder: Encoder, run: int) -> Any:
    """The library's question-answering model with one run's head."""
    path = encoder.model.config._name_or_path
    own = AutoModelForQuestionAnswering.from_pretrained(path, attn_implementation="eager").eval()
    own.qa_outputs.weight.copy_(head_of(encoder).project.weight[run].T)
    own.qa_outputs.bias.copy_(head_of(encoder).project.bias[run, 0])
    return own


def prepared(variant: str, encoder: Encoder, task: TaskData) -> Adaptation:
    """With heads that are sure of something."""
    adaptation = VARIANTS[variant].prepare(encoder, SEEDS).to_task(task.type)
    with torch.no_grad():
        head_of(adaptation.backbone).project.weight.normal_(std=1.0)
        head_of(adaptation.backbone).project.bias.normal_()
    return adaptation


def vectors_of(adaptation: Adaptation, run: int) -> Tensor:
    """(P, D) prompt vectors of a run; P = 0 where a method has none."""
    if not adaptation.backbone.virtual_tokens:
        return torch.zeros(0, adaptation.backbone.width)
    assert adaptation.delta is not None
    (vectors,) = adaptation.delta.parameters()
    return vectors[run].detach()


@torch.no_grad()
def logits_of(model: Any, ids: Sequence[int], types: Sequence[int], vectors: Tensor) -> tuple[Tensor, Tensor]:
    """Start and end logits of prompt vectors and the window after them."""
    embedded = torch.cat([vectors, model.get_input_embeddings()(torch.tensor(ids))])[None]
    kinds = {"token_type_ids": torch.tensor([[0] * len(vectors) + list(types)])}
    out = model(inputs_embeds=embedded, **(kinds if any(types) else {}))
    return out.start_logits[0].double(), out.end_logits[0].double()


def windows_of(tokenizer: Any, context: str, vectors: Tensor) -> Any:
    """The tokenizer's own, with room for prompt vectors."""
    return tokenizer(
        QUESTION, context, truncation="only_second", max_length=LENGTH - len(vectors), stride=STRIDE,
        return_overflowing_tokens=True, return_token_type_ids=True,
    )  # fmt: skip


def best_answers_by_search(model: Any, tokenizer: Any, context: str, vectors: Tensor) -> list[tuple[str, float]]:
    """Texts and scores, best first."""
    read = windows_of(tokenizer, context, vectors)
    answers: list[list] = []
    for window, (ids, types) in enumerate(zip(read["input_ids"], read["token_type_ids"], strict=True)):
        places = [place for place, part in enumerate(read.sequence_ids(window)) if part == 1]
        starts, ends = (
            dict(zip([0, *places], logits[len(vectors) :][[0, *places]].softmax(0).tolist(), strict=True))
            for logits in logits_of(model, ids, types, vectors)
        )
        spans = []
        for first in places:
            for last in places:
                if first <= last < first + LONGEST:
                    spans.append((starts[first] * ends[last], first, last))
        for score, first, last in sorted(spans, reverse=True)[: 2 * NBEST + 10]:
            words = read.token_to_word(window, first), read.token_to_word(window, last)
            begin = read.word_to_chars(window, words[0], sequence_index=1)[0]
            end = read.word_to_chars(window, words[1], sequence_index=1)[1]
            text = context[begin:end]
            same = [answer for answer in answers if answer[0].lower() == text.lower()]
            if same:
                same[0][1] += score
            else:
                answers.append([text, score])
    answers.sort(key=lambda answer: -answer[1])
    return [(text.strip(), score) for text, score in answers[:NBEST]]


@pytest.mark.parametrize("variant", ["lora", "prompt"])
@pytest.mark.parametrize("name", NAMES)
def test_answers_of_every_run_are_those_of_a_search_of_all_spans_of_the_librarys_model(reader, name, variant):
    """LoRA is no change yet; prompt vectors stand before every window and take room in it."""
    task = task_of()
    adaptation = prepared(variant, reader(name), task)
    found = evaluate(adaptation, evaluation_prompts(task, "plain"), batch_size=8)
    for run, answers in enumerate(found):
        model, vectors = model_of(adaptation.backbone, run), vectors_of(adaptation, run)
        for answer, context in zip(answers, CONTEXTS, strict=True):
            tokenizer = adaptation.backbone.tokenizer
            expected = best_answers_by_search(model, tokenizer, context, vectors)
            assert [span.text for span in answer.best] == [text for text, _ in expected]
            assert [span.score for span in answer.best] == pytest.approx([score for _, score in expected], rel=1e-3)
            assert all(context[slice(*span.span)] == span.text for span in answer.best)
    assert len(vectors) == (3 if variant == "prompt" else 0)
    assert found[0][0].windows > 2 > found[0][1].windows
    assert [answer.text for answer in found[0]] != [answer.text for answer in found[1]]


@pytest.mark.parametrize("variant", ["lora", "prompt"])
@pytest.mark.parametrize("name", NAMES)
def test_every_runs_loss_is_that_of_the_librarys_model_for_where_the_answer_is(reader, name, variant):
    task = task_of()
    adaptation = prepared(variant, reader(name), task)
    encoder = adaptation.backbone
    rows = [task.type.encode(encoder, prompt) for prompt in evaluation_prompts(task, "plain")]
    for row, context, answer in zip(rows, CONTEXTS, ANSWERS, strict=True):  # one at a time: no padding
        assert isinstance(row, EncodedWindows)
        batch = task.type.collate([row] * 2, encoder)
        with adaptation.attached(), torch.no_grad():
            output = task.type.forward(encoder, batch, task.type.pass_size(encoder, task.type.shape_of([row])))
            losses = task.type.run_losses((), output, batch, 2)
        for run in range(2):
            model, vectors = model_of(encoder, run), vectors_of(adaptation, run)
            read, start = windows_of(encoder.tokenizer, context, vectors), context.index(answer)
            ends = (read.char_to_token(row.trained, place, 1) for place in (start, start + len(answer) - 1))
            logits = logits_of(model, read["input_ids"][row.trained], read["token_type_ids"][row.trained], vectors)
            wanted = [
                cross_entropy(part, torch.tensor(len(vectors) + end)) for part, end in zip(logits, ends, strict=True)
            ]
            assert losses[run].item() == pytest.approx((sum(wanted) / 2).item(), rel=1e-4)
        assert abs(losses[0] - losses[1]) > 1e-2


@pytest.mark.parametrize("variant", ["lora", "prompt", "prefix", "bitfit"])
@pytest.mark.parametrize("name", NAMES)
def test_runs_trained_together_answer_as_those_trained_alone(reader, name, variant):
    task = task_of()
    shots, prompts = [draw(task, seed) for seed in SEEDS], evaluation_prompts(task, "plain")
    method = replace(VARIANTS[variant], steps=4)
    fused = evaluate(method.adapt(reader(name), task, shots, recipe(batch_size=2)), prompts, 8)
    for run, few_shot in enumerate(shots):
        (alone,) = evaluate(method.adapt(reader(name), task, [few_shot], recipe(batch_size=2)), prompts, 8)
        for answer, other in zip(fused[run], alone, strict=True):
            assert answer.text == other.text
            scores = [span.score for span in other.best]
            assert [span.score for span in answer.best] == pytest.approx(scores, rel=1e-3)
    assert [span.score for span in fused[0][0].best] != pytest.approx(
        [span.score for span in fused[1][0].best], rel=0.01
    )
