"""The held-out tasks: reproducible, well-formed, balanced, and apart from everything the models were trained on."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from functools import cache

import jinja2
import pytest

from adaptbench.microworld import corpus, episodes, tasks, tokenizer
from adaptbench.microworld.world import build

ALL = (*tasks.names(), *tasks.names("development"))
ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined)


compiled = cache(ENVIRONMENT.from_string)


def render(template: dict[str, str], row: dict) -> tuple[str, list[str]]:
    choices = [c.strip() for c in compiled(template["answer_choices"]).render(row).split("|||")]
    prompt, answer = compiled(template["jinja"]).render({**row, "answer_choices": choices}).split("|||")
    assert answer.strip() == choices[row["label"]]
    return prompt.strip(), choices


def fingerprint() -> str:
    world = build()
    content = [world.nouns, world.features, world.homonyms, tokenizer.vocabulary()]
    content += [[tasks.load(name).train, tasks.load(name).evaluation, tasks.load(name).templates] for name in ALL]
    content += [corpus.t0_batch(world, 0, 3, 8, corpus.T0Mixture())["input_ids"].tolist()]
    content += [corpus.gpt_batch(world, 0, 3, 8, 96, 6, (1, 1, 1, 1, 3))["input_ids"].tolist()]
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
    assert len(tasks.names()) >= 6
    assert set(tasks.names()).isdisjoint(tasks.names("development"))


def test_an_unknown_task_names_the_known_ones():
    with pytest.raises(KeyError, match="micro_copa"):
        tasks.load("micro_cop")


@pytest.mark.parametrize("name", ALL)
def test_rows_are_plenty_distinct_and_balanced(name):
    task = tasks.load(name)
    assert len(task.evaluation) >= 256
    assert len(task.train) >= 1000
    choices = len(render(task.templates[0], task.train[0])[1])
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


def test_no_held_out_text_occurs_in_the_pretraining_streams():
    """No rendered evaluation prompt, and no answer to a held-out row, where pre-training prompts are answered."""
    world, tok = build(), tokenizer.build_tokenizer(decoder_only=False)
    sources, answers = [], set()
    for index in range(150):
        batch = corpus.t0_batch(world, 0, index, 64, corpus.T0Mixture(0, 0, 1))
        sources += tok.batch_decode(batch["input_ids"], skip_special_tokens=True)
        answers |= set(tok.batch_decode(batch["labels"].clamp(min=0), skip_special_tokens=True))
        plain = corpus.t0_batch(world, 0, index, 64, corpus.T0Mixture(0, 1, 0))
        sources += [
            " ".join(pair)
            for pair in zip(
                tok.batch_decode(plain["input_ids"], skip_special_tokens=True),
                tok.batch_decode(plain["labels"].clamp(min=0), skip_special_tokens=True),
                strict=True,
            )
        ]
    stream = "\n".join(sources)
    for name in ALL:
        task = tasks.load(name)
        for template in task.templates:
            for row in task.evaluation:
                prompt, choices = render(template, row)
                assert tok.decode(tok(prompt).input_ids, skip_special_tokens=True) not in stream
                if not set(choices) <= set(world.nouns):
                    assert answers.isdisjoint(choices)


def test_no_held_out_label_is_a_label_of_an_in_context_episode():
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
