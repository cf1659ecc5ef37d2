"""A prompt and its answer are read as one text, whatever the tokenizer adds, and what a row says is never markup."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast, T5Tokenizer

from adaptbench.data.batching import encode
from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import Prompt, Template
from adaptbench.data.tokenization import control_ids, joined, marks, token_ids
from adaptbench.errors import InputError
from adaptbench.methods.icl import InContextLearning
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.scoring.evaluate import readings
from adaptbench.training.stream import TrainingStream
from tests.factories import recipe
from tests.scoring.tokenizers import KINDS, NAMES, SPECIAL, TEXT

CHINESE = ("这部电影很好看", "服务太差了", "我很喜欢这本书", "再也不来了")
GOOD, BAD = "很好", "差"
MARKUP = ("</s>", "<|endoftext|>", "<pad>", "<s>")


def appending() -> PreTrainedTokenizerFast:
    """A decoder's tokenizer that ends every text with `</s>`."""
    tokenizer = KINDS["byte_level"]()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 1)]
    )
    return tokenizer


def chinese() -> PreTrainedTokenizerFast:
    """Byte-level BPE on text without spaces: tokens may hold several characters."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    texts = [f"{text}。情感：{answer}\n\n" for text in CHINESE for answer in (GOOD, BAD)] + ["回答：很好", "回答：很差"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts * 4, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def unigram() -> PreTrainedTokenizerFast:
    """As SentencePiece's Unigram models in tokenizers' own format, where special tokens are pieces like others."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = [*SPECIAL, "<|endoftext|>"]
    tokenizer.train_from_iterator(
        TEXT, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>")
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def t5() -> PreTrainedTokenizerFast:
    """T5's own class: Unigram, `</s>` after every text, and its sentinels."""
    letters = sorted(set("".join(TEXT)) - {" ", "\n"} | set("<|/>_"))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    return T5Tokenizer(vocab=[*vocabulary, ("▁the", -1.0), ("▁cat", -1.0)], extra_ids=2)


def whole_words() -> PreTrainedTokenizerFast:
    """WordPiece over blanks only: a control token's name is a word of the vocabulary."""
    letters = sorted(set("".join(TEXT)) - {" ", "\n"} | set("<|/>"))
    entries = [*SPECIAL, "<|endoftext|>", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES, extra_special_tokens=["<|endoftext|>"])


FAMILIES = {**KINDS, "appending": appending, "unigram": unigram, "t5": t5, "whole_words": whole_words}


@pytest.fixture(scope="module")
def tokenizers():
    return {name: build() for name, build in {**FAMILIES, "chinese": chinese}.items()}


def bare(tokenizer, text):
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


# What a tokenizer adds stands around the whole


def test_no_answer_is_scored_after_an_end_of_sequence_mark(backbones, tokenizers):
    tokenizer = tokenizers["appending"]
    assert tokenizer("a")["input_ids"][-1] == tokenizer.eos_token_id, "or this test would say nothing"
    backbone = replace(backbones["llama"], tokenizer=tokenizer)
    for context in ("", "a dog ran to the house\n\n"):
        encoded = encode(backbone, Prompt("0", "plain", "the cat sat", ("no", "yes it is"), 0), context)
        for text, ids in zip(("no", "yes it is"), encoded.choices, strict=True):
            read = (*encoded.source, *ids)
            assert tokenizer.eos_token_id not in read
            assert read == (tokenizer.bos_token_id, *bare(tokenizer, f"{context}the cat sat {text}"))


def test_a_prefix_before_every_text_stands_only_before_the_first(tokenizers):
    """Llama 2's `▁`: pieces tokenised one by one would each have one."""
    tokenizer = tokenizers["sentencepiece"]
    demonstration, query = "a dog ran\n\n", "the cat sat"
    source, (answer,) = joined(tokenizer, demonstration + query, [" no"])
    assert (*source, *answer) == (2, *bare(tokenizer, "a dog ran\n\nthe cat sat no"))
    apart = [*bare(tokenizer, demonstration), *bare(tokenizer, query), *bare(tokenizer, "no")]
    assert list((*source, *answer)[1:]) != apart, "or this test would say nothing"


PIECES = st.lists(
    st.sampled_from(["the cat", "no", "été", "a", "?", "\n\n", " ", "house", "12", "x,y", "\t", "it is."]), max_size=6
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(sorted(KINDS)), parts=PIECES, answer=st.sampled_from(["no", "yes it is", "été", "12", "?"]))
@example(kind="byte_level", parts=["a", "\n\n"], answer="no")
@example(kind="byte_level", parts=["house", "\n\n"], answer="no")
@example(kind="sentencepiece", parts=["the cat", "  "], answer="été")
def test_a_prompt_and_its_answer_are_the_tokens_of_the_whole(tokenizers, kind, parts, answer):
    tokenizer, prompt = tokenizers[kind], "question" + "".join(parts)
    source, (choice,) = joined(tokenizer, prompt, [f" {answer}"])
    before = marks(tokenizer).before
    whole, kept = bare(tokenizer, f"{prompt} {answer}"), bare(tokenizer, prompt.rstrip())
    assert (*source, *choice) == (*before, *whole)
    if whole[: len(kept)] == kept:
        assert len(source) == len(before) + len(kept), "lm-evaluation-harness's boundary"
    else:  # a token holds the end of the prompt and white space ("se" and two line ends): the answer begins with it
        assert source == (*before, *kept[: len(source) - len(before)])


# Languages without spaces


def chinese_task() -> TaskData:
    rows = [Example(f"{i}", {"text": text, "label": i % 2}) for i, text in enumerate(CHINESE)]
    template = Template("zh", "plain", "{{text}}。情感：|||{{answer_choices[label]}}", f"{GOOD}|||{BAD}", delimiter="")
    return TaskData("zh", 2, rows[:2], rows[2:], [template], answer_delimiter="")


def test_answers_without_spaces_are_read_without_one(backbones, tokenizers):
    backbone, task = replace(backbones["llama"], tokenizer=tokenizers["chinese"]), chinese_task()
    prompt = evaluation_prompts(task, "plain")[0]
    (row,) = [readings(ZeroShot().prepare(backbone, [0]), [prompt], 0)[0].encoded]
    shots = FewShotSet(0, tuple(task.train))
    shown = "".join(f"{CHINESE[i]}。情感：{(GOOD, BAD)[i]}\n\n" for i in range(2))
    adapted = InContextLearning(name="icl").adapt(backbone, task, [shots], recipe(), "plain")
    in_context = readings(adapted, [prompt], 0)[0].encoded
    for before, encoded in (("", row), (shown, in_context)):
        for answer, ids in zip((GOOD, BAD), encoded.choices, strict=True):
            text = f"{before}{CHINESE[2]}。情感：{answer}"
            assert " " not in text
            assert (*encoded.source, *ids) == bare(tokenizers["chinese"], text)
    (trained,) = TrainingStream(task, shots, "plain", 1, lambda prompt: encode(backbone, prompt)).next_batch()
    right = trained.choices[trained.prompt.label]
    expected = f"{trained.prompt.input}{(GOOD, BAD)[trained.prompt.label]}"
    assert (*trained.source, *right) == bare(tokenizers["chinese"], expected)


def test_a_token_across_the_boundary_belongs_to_the_answer(tokenizers):
    """`很` + `好` may be one token; cut after `很` the answer would be nothing, or its second half."""
    tokenizer, answers = tokenizers["chinese"], ["好", "差", "棒"]
    alone, whole = bare(tokenizer, "回答：很"), bare(tokenizer, "回答：很好")
    assert whole[: len(alone)] != alone, "or this test would say nothing"
    source, choices = joined(tokenizer, "回答：很", answers)
    for answer, ids in zip(answers, choices, strict=True):
        start = (tokenizer.bos_token_id,) if source[0] == tokenizer.bos_token_id else ()
        assert ids
        assert (*source, *ids) == (*start, *bare(tokenizer, f"回答：很{answer}"))


# Text stays text


@pytest.mark.parametrize("markup", MARKUP)
@pytest.mark.parametrize("name", FAMILIES)
def test_text_that_looks_like_markup_is_text(tokenizers, name, markup):
    tokenizer = tokenizers[name]
    names = {tokenizer.convert_tokens_to_ids(markup) for markup in MARKUP} - {tokenizer.unk_token_id}
    for text in (markup, f"the {markup} cat", f"the{markup}cat", f"{markup}{markup}", markup.upper()):
        for target in (False, True):
            (ids,) = token_ids(tokenizer, [text], target)
            assert ids
            assert names.union(control_ids(tokenizer)).isdisjoint(ids)


@pytest.mark.parametrize("name", ["unigram", "whole_words", "t5"])
def test_such_names_are_words_of_some_vocabularies(tokenizers, name):
    """Asking the tokenizer not to look for special tokens is then not enough, or the test above would say little."""
    tokenizer = tokenizers[name]
    ids = tokenizer("the </s> cat", add_special_tokens=False, split_special_tokens=name != "t5")["input_ids"]
    assert tokenizer.eos_token_id in ids


def test_full_width_letters_that_a_tokenizer_reads_as_markup_are_text(tokenizers):
    tokenizer = tokenizers["unigram"]
    plain = tokenizer("＜/s＞", add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.eos_token_id in plain, "or this test would say nothing"
    assert control_ids(tokenizer).isdisjoint(token_ids(tokenizer, ["＜/s＞"])[0])


@pytest.mark.parametrize(
    ("architecture", "name"), [("llama", family) for family in FAMILIES if family != "t5"] + [("t5", "t5")]
)
def test_markup_in_row_choice_and_demonstration_leaves_only_the_marks_around(backbones, tokenizers, architecture, name):
    tokenizer = tokenizers[name]
    backbone = replace(backbones[architecture], tokenizer=tokenizer)
    context = "" if architecture == "t5" else f"a {MARKUP[0]} dog {MARKUP[2]} ran\n\n"
    prompt = Prompt("0", "plain", f"the {MARKUP[2]} cat {MARKUP[0]} sat", (f"no {MARKUP[0]}", f"yes {MARKUP[3]}"), 0)
    encoded, special, around = encode(backbone, prompt, context), control_ids(tokenizer), marks(tokenizer)
    after = around.after if architecture == "t5" else ()
    found = [token for token in encoded.source if token in special]
    assert found == [*around.before, *after]
    assert encoded.source[: len(around.before)] == around.before
    for ids in encoded.choices:
        assert [token for token in ids if token in special] == list(after)
        assert ids[len(ids) - len(after) :] == after


# One rule for all


@pytest.mark.parametrize("kind", KINDS)
def test_zero_shot_tuning_and_in_context_learning_read_the_same_tokens(backbones, tokenizers, kind):
    backbone = replace(backbones["llama"], tokenizer=tokenizers[kind])
    rows = [Example(f"{i}", {"text": text, "label": i % 2}) for i, text in enumerate(["the cat", "a dog ran", "house"])]
    template = Template("toy", "plain", "{{text}} sat? ||| {{answer_choices[label]}}", "no ||| yes it is")
    task = TaskData("toy", 2, rows[:2], rows[2:], [template])
    shots, (prompt,) = FewShotSet(0, tuple(task.train)), evaluation_prompts(task, "plain")
    naive, cached = (
        readings(InContextLearning(cached=on).adapt(backbone, task, [shots], recipe(), "plain"), [prompt], 0)[0]
        for on in (False, True)
    )
    assert naive.encoded == cached.encoded
    assert 0 < cached.already_read < len(cached.encoded.source)
    (none,) = readings(ZeroShot().prepare(backbone, [0]), [prompt], 0)
    assert none.encoded == encode(backbone, prompt)
    before = marks(backbone.tokenizer).before
    for encoded in (naive.encoded, none.encoded):
        context = "the cat sat? no\n\na dog ran sat? yes it is\n\n" if encoded is naive.encoded else ""
        for answer, ids in zip(prompt.choices, encoded.choices, strict=True):
            whole = bare(backbone.tokenizer, f"{context}house sat? {answer}")
            assert (*encoded.source, *ids) == (*before, *whole)
    stream = TrainingStream(task, shots, "plain", 2, lambda prompt: encode(backbone, prompt))
    for trained in stream.next_batch():
        assert trained == encode(backbone, trained.prompt)


# Choices that the model cannot tell apart


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_choices_that_are_the_same_tokens_are_refused_by_name(backbones, tokenizers, architecture):
    backbone = replace(backbones[architecture], tokenizer=tokenizers["wordpiece"])
    prompt = Prompt("7", "plain", "the cat", ("мир", "дом"), 0)
    with pytest.raises(InputError) as caught:
        encode(backbone, prompt)
    assert str(caught.value) == (
        "template 'plain', row '7': the choices 'мир' and 'дом' are the same tokens to this model"
    )
