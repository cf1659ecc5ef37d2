"""From rows to scores: what transformers' own classifiers say of the same texts, and runs that do not touch."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import SPLIT, TextTemplate
from adaptbench.methods import METHODS
from adaptbench.models.encoders import Encoder
from adaptbench.scoring.evaluate import evaluate
from adaptbench.tasks.classification import Classification
from tests.factories import recipe
from tests.methods.roster import VARIANTS
from tests.models.classifiers import classifier_of_transformers, made_different

CLASSES = 3
FIRST = ("the cat sat on the mat", "it was a good answer", "a dog ran", "given that the large red house is blue", "no")
SECOND = ("a dog ran", "it is true that the small mat was red", "yes", "no", "the large blue cat ran to the house")
LABELS = {False: [0, 1, 2, 1, 0], True: [0.5, -1.0, 2.0, 0.0, 1.5]}  # by whether they are numbers
SEEDS = (3, 11)


def task_of(pairs: bool, regression: bool = False) -> TaskData:
    """Texts of unequal length, or pairs of them, and their classes or numbers."""
    fields = [
        {"a": first, "b": second, "label": label}
        for first, second, label in zip(FIRST, SECOND, LABELS[regression], strict=True)
    ]
    template = TextTemplate("toy", "plain", f"{{{{a}}}}{SPLIT}{'{{b}}' if pairs else ''}", "")
    rows = [[Example(f"{kind}{i}", values) for i, values in enumerate(fields)] for kind in ("train", "eval")]
    kind = Classification(1, True) if regression else Classification(CLASSES)
    return TaskData("toy", 4, *rows, [template], type=kind)


def head_of(encoder: Encoder) -> Any:
    head: Any = encoder.head
    return head.pieces["head"]


def test_a_linear_probe_is_one_map_on_a_model_that_stays_as_it_is(bare):
    """Fused runs equal separate ones, and their scores are those of the frozen model's states."""
    task, encoder, method = task_of(pairs=False), bare("bert"), METHODS["linear_probe"](steps=5, learning_rate=0.1)
    before = [parameter.clone() for parameter in encoder.model.parameters()]
    fused = method.adapt(encoder, task, [draw(task, seed) for seed in SEEDS], recipe(optimizer="adamw"))
    assert all(torch.equal(*pair) for pair in zip(before, encoder.model.parameters(), strict=True))
    assert head_of(fused.backbone).dense is None
    answers = evaluate(fused, evaluation_prompts(task, "plain"), 10)
    for run, seed in enumerate(SEEDS):
        alone = method.adapt(encoder, task, [draw(task, seed)], recipe(optimizer="adamw"))
        weight, bias = (getattr(head_of(alone.backbone).project, name)[0] for name in ("weight", "bias"))
        assert weight.std() > 0.05
        for answer in answers[run]:
            inputs = encoder.tokenizer(answer.prompt.input, return_tensors="pt")
            with torch.no_grad():
                states = encoder.model(**inputs).last_hidden_state[:, 0]
            assert torch.allclose(torch.tensor(answer.scores), (states @ weight + bias)[0], atol=1e-4)


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("name", ["bert", "roberta", "deberta_v3", "llama", "gpt2"])
def test_scores_of_rows_are_those_of_the_librarys_classifier_on_its_tokenizers_rows(bare, name, pairs):
    """A decoder's tokenizer puts two texts together without a mark: here they stand on two lines."""
    task = task_of(pairs)
    adaptation = VARIANTS["lora"].prepare(bare(name), SEEDS).to_task(task.type)  # no change yet
    encoder = adaptation.backbone
    made_different(encoder, head_of(encoder))
    found = evaluate(adaptation, evaluation_prompts(task, "plain"), batch_size=6)
    for run, answers in enumerate(found):
        own = classifier_of_transformers(encoder, head_of(encoder), run)
        for answer, first, second in zip(answers, FIRST, SECOND, strict=True):
            texts = [first, second][: 1 + pairs]
            if name in ("llama", "gpt2"):
                texts = ["\n".join(texts)]
            inputs = encoder.tokenizer(*texts, return_tensors="pt", return_token_type_ids=encoder.token_types > 0)
            with torch.no_grad():
                logits = own(**inputs).logits[0]
            assert answer.scores == pytest.approx(logits.tolist(), abs=1e-4)
            assert task.type.prediction(answer, "") == logits.argmax()
    assert torch.tensor([[answer.scores for answer in answers] for answers in found]).std(1).min() > 0.02


@pytest.mark.parametrize("regression", [False, True])
def test_every_runs_loss_is_that_of_the_librarys_classifier_on_its_own_rows(bare, regression):
    task = task_of(pairs=True, regression=regression)
    encoder = VARIANTS["lora"].prepare(bare("bert"), SEEDS).to_task(task.type).backbone
    made_different(encoder, head_of(encoder))
    every = [task.type.encode(encoder, prompt) for prompt in evaluation_prompts(task, "plain")]
    own_rows = [every[:2], every[2:4]]
    batch = task.type.collate([*own_rows[0], *own_rows[1]], encoder)
    output = task.type.forward(encoder, batch, task.type.pass_size(encoder, task.type.shape_of(every)))
    found = task.type.run_losses((), output, batch, 2)
    for run, rows in enumerate(own_rows):
        own = classifier_of_transformers(encoder, head_of(encoder), run)
        alone = task.type.collate(rows, encoder)
        inputs = {"input_ids": alone.source, "attention_mask": alone.source_mask.long(), "token_type_ids": alone.types}
        with torch.no_grad():
            loss = own(**inputs, labels=alone.label).loss
        assert found[run].item() == pytest.approx(loss.item(), rel=1e-5)
    assert abs(found[0] - found[1]) > 1e-2


@pytest.mark.parametrize("variant", ["lora", "prompt", "prefix", "bitfit"])
@pytest.mark.parametrize("name", ["bert", "t5", "deberta_v3", "llama"])
def test_runs_trained_together_answer_as_those_trained_alone(bare, name, variant):
    """Under tiny models without dropout of their own."""
    task = task_of(pairs=True)
    shots = [draw(task, seed) for seed in SEEDS]
    prompts, method = evaluation_prompts(task, "plain"), replace(VARIANTS[variant], steps=4)
    fused = evaluate(method.adapt(without_dropout(bare(name)), task, shots, recipe(batch_size=2)), prompts, 6)
    for run, few_shot in enumerate(shots):
        adaptation = method.adapt(without_dropout(bare(name)), task, [few_shot], recipe(batch_size=2))
        (alone,) = evaluate(adaptation, prompts, 6)
        for answer, other in zip(fused[run], alone, strict=True):
            assert answer.scores == pytest.approx(other.scores, abs=1e-4)
    assert fused[0][0].scores != pytest.approx(fused[1][0].scores, abs=1e-2)


def without_dropout(encoder: Encoder) -> Encoder:
    for name in ("classifier_dropout", "hidden_dropout_prob", "dropout_rate"):
        assert not getattr(encoder.model.config, name, None)
    return encoder
