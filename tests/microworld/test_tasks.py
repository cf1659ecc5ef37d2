"""The held-out tasks: reproducible, well-formed, balanced, and apart from everything the models were trained on."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache

import jinja2
import pytest

from adaptbench.microworld import corpus, episodes, prompted, stories, tasks, tokenizer
from adaptbench.microworld.world import build

ALL = (*tasks.names(), *tasks.names("development"))
ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined)


# Eleven tasks with the names, choices and numbers of shots of the paper's data sets (section 4.1, appendix).
PAPERS_SHOTS = {
    "micro_copa": 32, "micro_hswag": 20, "micro_storycloze": 70, "micro_winogrande": 50, "micro_wsc": 32,
    "micro_wic": 32, "micro_rte": 32, "micro_cb": 32, "micro_anli_r1": 50, "micro_anli_r2": 50, "micro_anli_r3": 50,
}  # fmt: skip
PAPERS_CHOICES = {"micro_hswag": 4, "micro_cb": 3, "micro_anli_r1": 3, "micro_anli_r2": 3, "micro_anli_r3": 3}

compiled = cache(ENVIRONMENT.from_string)


def render(template: dict[str, str], row: dict) -> tuple[str, list[str]]:
    choices = [c.strip() for c in compiled(template["answer_choices"]).render(row).split("|||")]
    prompt, answer = compiled(template["jinja"]).render({**row, "answer_choices": choices}).split("|||")
    assert answer.strip() == choices[row["label"]]
    return prompt.strip(), choices


def gpt_mixture() -> dict[str, float]:
    """Every kind of sequence at every level, equally often."""
    return dict.fromkeys(
        [*episodes.FLAT, *(f"{kind}_{level}" for kind in episodes.LEVELLED for level in (1, 2, 3))], 1.0
    )


def fingerprint() -> str:
    world = build()
    content = [world.nouns, world.features, world.homonyms, tokenizer.vocabulary()]
    content += [[tasks.load(name).train, tasks.load(name).evaluation, tasks.load(name).templates] for name in ALL]
    content += [corpus.t0_batch(world, 0, 3, 8, corpus.T0Mixture())["input_ids"].tolist()]
    content += [corpus.gpt_batch(world, 0, 3, 8, 96, gpt_mixture())["input_ids"].tolist()]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def test_world_tasks_and_corpus_do_not_depend_on_the_process():
    code = "from tests.microworld.test_tasks import fingerprint; print(fingerprint())"
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert seen == {fingerprint() + "\n"}


def test_held_out_tasks_cover_the_four_families():
    families = {tasks.load(name).family for name in tasks.names()}
    assert families == {"sentence completion", "natural language inference", "coreference", "word sense"}
    assert {name: tasks.RECIPES[name].shots for name in tasks.names()} == PAPERS_SHOTS
    assert set(tasks.names()).isdisjoint(tasks.names("development"))


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(KeyError, match="micro_copa"):
        tasks.load("micro_cop")


@pytest.mark.parametrize("name", ALL)
def test_rows_are_plenty_distinct_and_balanced(name):
    task = tasks.load(name)
    assert len(task.evaluation) == 500
    assert len(task.train) >= 2000
    choices = len(render(task.templates[0], task.train[0])[1])
    assert name not in PAPERS_SHOTS or choices == PAPERS_CHOICES.get(name, 2)
    for rows in (task.train, task.evaluation):
        counts = Counter(row["label"] for row in rows)
        assert set(counts) == set(range(choices))
        assert max(counts.values()) - min(counts.values()) <= 1
        assert len({row["uid"] for row in rows}) == len(rows)


@pytest.mark.parametrize("name", ALL)
def test_training_and_evaluation_rows_share_no_prompt(name):
    task = tasks.load(name)
    for template in task.templates:
        train = {render(template, row)[0] for row in task.train}
        assert train.isdisjoint(render(template, row)[0] for row in task.evaluation)


@pytest.mark.parametrize("name", ALL)
def test_no_prompt_or_choice_contains_an_unknown_word(name):
    task, tok = tasks.load(name), tokenizer.build_tokenizer(decoder_only=False)
    assert name not in tasks.names() or len(task.templates) >= 3
    for template in task.templates:
        for row in (*task.evaluation, *task.train[:256]):
            prompt, choices = render(template, row)
            assert len(set(choices)) == len(choices)
            for text in (prompt, *choices):
                ids = tok(text).input_ids
                assert tokenizer.UNK not in ids, text
                assert len(ids) <= 30


@pytest.fixture(scope="module")
def streams() -> dict[str, list[str]]:
    """What the models read in pre-training, and what they answer to prompts: thousands of texts of every kind."""
    world, tok = build(), tokenizer.build_tokenizer(decoder_only=False)

    def decoded(ids) -> list[str]:
        return tok.batch_decode(ids.clamp(min=0), skip_special_tokens=True)

    texts, answers = [], []
    for index in range(150):
        prompts = corpus.t0_batch(world, 0, index, 64, corpus.T0Mixture(0, 0, 1))
        texts += decoded(prompts["input_ids"])
        answers += decoded(prompts["labels"])
        plain = corpus.t0_batch(world, 0, index, 64, corpus.T0Mixture(0, 1, 0))
        texts += map(" ".join, zip(decoded(plain["input_ids"]), decoded(plain["labels"]), strict=True))
    for index in range(40):
        batch = corpus.gpt_batch(world, 0, index, 32, 192, gpt_mixture())
        texts += decoded(batch["input_ids"])
    return {"texts": texts, "answers": answers}


@pytest.mark.parametrize("name", ALL)
def test_no_text_of_a_task_occurs_in_pretraining(name, streams):
    """No rendered evaluation prompt; and no answer to a row where pre-training prompts are answered."""
    tok, stream, answers = tokenizer.build_tokenizer(False), "\n".join(streams["texts"]), set(streams["answers"])
    task = tasks.load(name)
    for template in task.templates:
        for row in task.evaluation:
            prompt, choices = render(template, row)
            assert tok.decode(tok(prompt).input_ids, skip_special_tokens=True) not in stream
            if not set(choices) <= set(build().nouns):
                assert answers.isdisjoint(choices)


@pytest.mark.parametrize("name", ALL)
def test_no_template_of_a_task_occurs_in_pretraining(name, streams):
    """Whatever stands in its slots: a slot may be up to eight words of a sentence."""
    for template in tasks.load(name).templates:
        text = template["jinja"].split("|||")[0].strip()
        literal = [part.strip() for part in re.split(r"\{\{.*?\}\}", text)]
        whole_words = [rf"(?<!\S){re.escape(part)}(?!\S)" for part in literal if part]
        pattern = re.compile(r" (?:[^\s.]+ ){1,8}".join(whole_words))
        assert pattern.search(render(template, tasks.load(name).train[0])[0]), "the pattern finds the template itself"
        candidates = [text for text in streams["texts"] if all(part in text for part in literal)]
        found = [text for text in candidates if pattern.search(text)]
        assert not found, (template["name"], found[0])


def test_no_function_that_writes_a_task_is_used_in_pretraining():
    writers = {recipe.row for recipe in tasks.RECIPES.values()}
    assert writers.isdisjoint(prompted.TASKS)
    for module in (stories, prompted, episodes, corpus):
        assert writers.isdisjoint(value for value in vars(module).values() if callable(value))


def test_no_label_of_a_task_stands_for_a_class_of_words_in_an_episode():
    labels = set(episodes.label_words())
    for name in ALL:
        task = tasks.load(name)
        for template in task.templates:
            for row in task.evaluation[:64]:
                assert labels.isdisjoint(render(template, row)[1])


def test_every_word_of_every_prompt_has_been_read_in_pretraining():
    world, tok = build(), tokenizer.build_tokenizer(decoder_only=False)
    seen = set()
    for index in range(300):
        batch = corpus.t0_batch(world, 0, index, 64, corpus.T0Mixture())
        seen |= set(batch["input_ids"].flatten().tolist()) | set(batch["labels"].flatten().tolist())
    for name in ALL:
        for template in tasks.load(name).templates:
            for row in tasks.load(name).evaluation:
                prompt, choices = render(template, row)
                unread = set(tok(" ".join([prompt, *choices])).input_ids) - seen
                assert not unread, tok.convert_ids_to_tokens(sorted(unread))
