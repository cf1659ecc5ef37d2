"""From rows to texts: what transformers' `generate` answers to the same tokens, alone and after demonstrations."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import MBart50Tokenizer, NllbTokenizer

from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import SPLIT, Prompt, TextTemplate
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.models.backbone import Backbone
from adaptbench.schema import DecodingConfig, ModelConfig
from adaptbench.scoring.evaluate import evaluate
from adaptbench.tasks.decoding import end_ids
from adaptbench.tasks.generation import Generation, Produced, speaking
from tests.factories import recipe
from tests.methods.roster import VARIANTS
from tests.tasks.answers import LIMIT, before_end

INPUTS = ("the cat sat", "it was a good question to say no", "a dog", "given that the large red house is blue", "no")
TARGETS = ("a dog ran", "yes", "the small mat is red", "it is true", "maybe false")
SEEDS = (3, 11)


def task_of(beams: int = 1, **settings: Any) -> TaskData:
    """Inputs and right answers of unequal length. Answers are kept whole unless `stop` is given."""
    fields = [{"text": text, "references": [target]} for text, target in zip(INPUTS, TARGETS, strict=True)]
    rows = [[Example(f"{kind}{i}", values) for i, values in enumerate(fields)] for kind in ("train", "eval")]
    decoding = DecodingConfig(beams, LIMIT, **{"stop": [], **settings})
    template = TextTemplate("toy", "plain", f"{{{{text}}}}{SPLIT}", "")
    return TaskData("toy", 2, *rows, [template], type=Generation(decoding))


def generated(backbone: Backbone, text: str, beams: int, **settings: Any) -> tuple[str, int]:
    """The text that transformers makes of one prompt alone, and how many tokens it took."""
    tokenizer, model, ends = backbone.tokenizer, backbone.model, end_ids(backbone)
    read = tokenizer(text, return_tensors="pt")
    search = {"max_new_tokens": LIMIT, "num_beams": beams, "eos_token_id": ends, "pad_token_id": 0, "do_sample": False}
    inputs = {"input_ids": read["input_ids"], "attention_mask": read["attention_mask"]}
    ids = model.generate(**inputs, **search, **settings)[0].tolist()
    new = ids[1 if backbone.is_encoder_decoder else read["input_ids"].shape[1] :]
    own = before_end(new, ends)
    skipped = "forced_bos_token_id" in settings
    return tokenizer.decode(own[skipped:], skip_special_tokens=True).strip(), len(own) + (len(own) < LIMIT)


def produced(answers: list) -> list[tuple[str, int]]:
    return [(answer.text, answer.tokens) for answer in answers]


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize("name", ["t5", "bart", "llama", "gpt2"])
def test_answers_to_rows_are_those_of_generate(lively, name, beams):
    backbone, task = lively(name)[0], task_of(beams)
    adaptation = METHODS["zero_shot"]().prepare(backbone, SEEDS).to_task(task.type)
    found = evaluate(adaptation, evaluation_prompts(task, "plain"), batch_size=5)
    expected = [generated(backbone, text, beams) for text in INPUTS]
    assert [produced(answers) for answers in found] == [expected] * len(SEEDS)
    assert len({text for text, _ in expected}) > 2


@pytest.mark.parametrize("beams", [1, 5])
@pytest.mark.parametrize(
    ("method", "name"), [("icl", "t5"), ("icl", "llama"), ("icl", "gpt2"), ("icl_cached", "llama")]
)
def test_answers_after_demonstrations_are_those_of_generate_on_the_joined_text(lively, method, name, beams):
    backbone, task = lively(name)[0], task_of(beams)
    shots = [draw(task, seed) for seed in SEEDS]
    icl = METHODS["icl"](name=method, cached=method == "icl_cached")
    adaptation = icl.adapt(backbone, task, shots, recipe())
    assert adaptation.contexts is not None
    found = evaluate(adaptation, evaluation_prompts(task, "plain"), batch_size=5)
    for answers, few_shot, contexts in zip(found, shots, adaptation.contexts, strict=True):
        context = "".join(
            f"{example.fields['text']} {example.fields['references'][0]}{icl.separator}"
            for example in few_shot.examples
        )
        assert contexts.shared == (method == "icl_cached")
        assert produced(answers) == [generated(backbone, context + text, beams) for text in INPUTS]
    assert produced(found[0]) != produced(found[1])


@pytest.mark.parametrize("beams", [1, 5])
def test_a_target_language_begins_every_answer_and_its_token_is_counted(lively, beams):
    """Any token may stand for a language."""
    backbone, token = lively("mbart")[0], 17
    task = task_of(beams, target_language=backbone.tokenizer.convert_ids_to_tokens(token))
    adaptation = METHODS["zero_shot"]().prepare(backbone, (1,)).to_task(task.type)
    (found,) = evaluate(adaptation, evaluation_prompts(task, "plain"), batch_size=5)
    assert produced(found) == [generated(backbone, text, beams, forced_bos_token_id=token) for text in INPUTS]
    assert min(answer.tokens for answer in found) < LIMIT


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("name", ["t5", "mbart", "llama", "bloom"])
def test_every_runs_loss_is_that_of_transformers_on_its_own_rows(lively, name, smoothing):
    """The library averages over tokens, this program over rows, so rows are asked for one by one."""
    backbone, task = lively(name)[0], task_of()
    rows = [task.type.encode(backbone, prompt) for prompt in evaluation_prompts(task, "plain")][:4]
    batch = task.type.collate(rows, backbone)
    with torch.no_grad():
        size = task.type.pass_size(backbone, task.type.shape_of(rows))
        output = task.type.forward(backbone, batch, size, smoothing)
        losses = task.type.run_losses(("lm",), output, batch, 2, smoothing)
        expected = []
        for text, target in zip(INPUTS[:4], TARGETS, strict=False):
            source = backbone.tokenizer(text)["input_ids"]
            if backbone.is_encoder_decoder:
                labels = backbone.tokenizer(text_target=target)["input_ids"]
                start = backbone.model.config.decoder_start_token_id
                inputs = {"input_ids": [source], "decoder_input_ids": [[start, *labels[:-1]]]}
            else:
                whole = [*backbone.tokenizer(f"{text} {target}")["input_ids"], end_ids(backbone)[0]]
                labels = [*whole[len(source) :], -100]
                inputs = {"input_ids": [whole]}
            tensors = {key: torch.tensor(value) for key, value in inputs.items()}
            logits = backbone.model(**tensors, use_cache=False).logits[0, -len(labels) :]
            expected.append(cross_entropy(logits, torch.tensor(labels), label_smoothing=smoothing).item())
    assert losses.tolist() == pytest.approx([sum(expected[:2]) / 2, sum(expected[2:]) / 2], rel=1e-4)
    assert abs(losses[0] - losses[1]) > 1e-2


@pytest.mark.parametrize("variant", ["lora", "prompt", "prefix", "bitfit", "ia3", "adapter"])
@pytest.mark.parametrize("name", ["t5", "llama"])
def test_runs_trained_together_answer_as_those_trained_alone(lively, name, variant):
    backbone, task = lively(name)[0], task_of(beams=2)
    shots, prompts = [draw(task, seed) for seed in SEEDS], evaluation_prompts(task, "plain")
    method, how = (
        replace(VARIANTS[variant], steps=6, learning_rate=0.3 if variant == "ia3" else 5.0),
        recipe(batch_size=2, losses=["lm"]),
    )
    fused = method.adapt(backbone, task, shots, how)
    found = [produced(answers) for answers in evaluate(fused, prompts, 10)]
    for run, few_shot in enumerate(shots):
        (alone,) = evaluate(method.adapt(backbone, task, [few_shot], how), prompts, 5)
        assert found[run] == produced(alone)
    assert found[0] != found[1]


def test_an_answer_ends_where_a_stop_text_begins_and_all_its_tokens_are_counted(lively):
    backbone = lively("llama")[0]
    prompts = evaluation_prompts(task_of(), "plain")
    (whole,) = evaluate(METHODS["zero_shot"]().prepare(backbone, (1,)).to_task(task_of().type), prompts, 5)
    longest = max(whole, key=lambda answer: len(answer.text))
    stop = longest.text[len(longest.text) // 2 :][:2]
    task = task_of(stop=[stop])
    (cut,) = evaluate(METHODS["zero_shot"]().prepare(backbone, (1,)).to_task(task.type), prompts, 5)
    assert [answer.text for answer in cut] == [answer.text.split(stop)[0].strip() for answer in whole]
    assert [answer.tokens for answer in cut] == [answer.tokens for answer in whole]
    assert [answer.text for answer in cut] != [answer.text for answer in whole]


def test_rows_without_a_right_answer_are_answered_alike(lively):
    for name in ("t5", "llama"):
        adaptation = METHODS["zero_shot"]().prepare(lively(name)[0], (1,)).to_task(task_of().type)
        prompts = evaluation_prompts(task_of(), "plain")
        (known,) = evaluate(adaptation, prompts, 5)
        (unknown,) = evaluate(adaptation, [replace(prompt, references=()) for prompt in prompts], 5)
        assert produced(unknown) == produced(known)
        assert task_of().type.reference(unknown[0].prompt) is None


WORDS = ["<s>", "<pad>", "</s>", "<unk>", "▁", "▁the", "▁cat", "▁dog", *"abcdefghijklmnopqrstuvwxyz"]


@pytest.mark.parametrize("kind", [MBart50Tokenizer, NllbTokenizer])
def test_source_and_target_are_marked_with_their_languages_as_the_tokenizer_does(lively, kind):
    source, target = {MBart50Tokenizer: ("ro_RO", "de_DE"), NllbTokenizer: ("ron_Latn", "deu_Latn")}[kind]
    if kind is MBart50Tokenizer:
        vocabulary: dict[str, Any] = {"vocab": [(word, -float(place)) for place, word in enumerate(WORDS)]}
    else:
        vocabulary = {"vocab": {word: place for place, word in enumerate(WORDS)}, "merges": []}
    plain, own = kind(**vocabulary), kind(**vocabulary, src_lang=source, tgt_lang=target)
    before = plain("the cat")["input_ids"]
    backbone = replace(lively("mbart")[0], tokenizer=speaking(plain, source, target))
    task = Generation(DecodingConfig(source_language=source, target_language=target))
    encoded = task.encode(backbone, Prompt("u", "t", "the cat", (), -1, references=("a dog",)))
    code = own.convert_tokens_to_ids(target)
    assert list(encoded.source) == own("the cat")["input_ids"]
    assert encoded.source[0] == own.convert_tokens_to_ids(source)
    assert list(encoded.choices[0]) == own(text_target="a dog")["input_ids"]
    assert encoded.choices[0][0] == code == task.search(backbone).forced_first
    assert plain("the cat")["input_ids"] == before != own("the cat")["input_ids"]
    with pytest.raises(InputError, match="has no language 'xx'"):
        speaking(plain, "xx", None)


def test_the_languages_of_the_data_set_are_enough_where_the_model_says_what_it_calls_them(lively, tmp_path):
    tokenizer = NllbTokenizer(vocab={word: place for place, word in enumerate(WORDS)}, merges=[])
    names = {"ro": "ron_Latn", "de": "deu_Latn"}
    task = Generation(languages=("ro", "de"))
    model = ModelConfig(name="mine", path="nowhere", languages=names)
    assert task.codes(tokenizer, model) == ("ron_Latn", "deu_Latn")
    assert task.codes(lively("t5")[0].tokenizer, model) == (None, None), "it marks none, and none are needed"
    own = replace(task, decoding=DecodingConfig(target_language="fra_Latn"))
    assert own.codes(tokenizer, model) == ("ron_Latn", "fra_Latn")
    backbone = replace(lively("mbart")[0], tokenizer=speaking(tokenizer, *task.codes(tokenizer, model)))
    assert task.search(backbone).forced_first == tokenizer.convert_tokens_to_ids("deu_Latn")
    with pytest.raises(InputError, match=r"dataset\.decoding\.source_language: model 'mine' marks languages"):
        Generation(languages=(None, "de")).codes(tokenizer, model)
    with pytest.raises(InputError, match="no language 'ro'"):
        speaking(tokenizer, *task.codes(tokenizer, replace(model, languages={})))


def test_answers_are_described_by_their_length_and_whether_they_are_empty_or_copied():
    prompt = Prompt("u", "t", "ein Hund läuft", (), -1)
    answers = [Produced(prompt, text, tokens) for text, tokens in (("ein Hund", 3), ("", 1), ("a dog", 3), ("Hund", 5))]
    assert Generation().described(answers) == {"tokens": 3.0, "empty": 0.25, "copied": 0.5}


def test_a_tokenizer_without_languages_is_refused(lively):
    with pytest.raises(InputError, match=r"dataset\.decoding: this model's tokenizer marks no languages, found 'de'"):
        speaking(lively("t5")[0].tokenizer, None, "de")
