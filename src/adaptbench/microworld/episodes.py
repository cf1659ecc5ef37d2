"""In-context episodes: lines of "[question words] word label" whose labels must be inferred from the lines before.

The label words of an episode are drawn at random, so only its own lines say which class of words gets which label; and
the classes are those of the world (heavy things, pleasant adjectives, verbs of tools), so the query's word need not be
among the demonstrations. Repeated random sequences, which grow the copying circuits this needs, live here too.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache

from adaptbench.microworld import prompted, stories, tasks
from adaptbench.microworld.tokenizer import BOS, NEWLINE, SPECIALS, encode, vocabulary
from adaptbench.microworld.world import ACTIONS, ADJECTIVES, FEATURES, World

Tokens = tuple[list[int], list[bool]]  # ids and, for each, whether predicting it is part of the loss


Classes = tuple[tuple[str, ...], ...]


@lru_cache(maxsize=1)
def classes(world: World) -> tuple[tuple[str, Classes], ...]:
    """Every way of sorting words that an episode may ask for: what it goes by, and its classes of words."""
    by_feature = [(f, tuple(world.having(f, v) for v in values)) for f, values in FEATURES.items()]
    return (*by_feature, ("opinion", tuple(ADJECTIVES.values())), ("action", tuple(ACTIONS.values())))


@lru_cache(maxsize=1)
def label_words() -> tuple[str, ...]:
    """Ordinary words; never one that labels a held-out or development row."""
    reserved = set(" ".join(c for r in tasks.RECIPES.values() for _, c in r.templates.values()).split())
    reserved |= set(" ".join(stories.outcome_words()).split()) | set(SPECIALS) | {NEWLINE}
    world_words = {word for _, group in classes(tasks.build()) for part in group for word in part}
    return tuple(w for w in vocabulary() if w.isalpha() and w not in reserved and w not in world_words)


def episode(world: World, rng: random.Random, length: int, longest_prefix: int) -> Tokens:
    """Lines of one task until `length` tokens are full. The loss is on the labels.

    With short prefixes the label is one word right after the decisive word, and the word before that names the feature:
    learning from context does not emerge otherwise. Once it has, longer prefixes come with longer labels and words in
    between. No word returns before all of its class have been met, so that only the class can tell the label.
    """
    simple = longest_prefix <= 2
    subject, groups = rng.choice(classes(world))
    if len(groups) > 2 and (simple or rng.random() < 0.5):
        groups = tuple(rng.sample(groups, 2 if simple else rng.choice((2, 3))))
    words_per_label = 1 if simple or rng.random() < 0.85 else 2
    labels = [encode(" ".join(rng.sample(label_words(), words_per_label))) for _ in groups]
    # Demonstrations may mix templates: then three phrasings take turns.
    lines = [phrasing(rng, longest_prefix, subject) for _ in range(1 if simple else rng.choice((1, 1, 3)))]
    newline = vocabulary()[NEWLINE]
    ids, loss = [BOS], [False]
    unmet: list[list[str]] = [[] for _ in groups]
    while len(ids) < length:
        group, (before, after) = rng.randrange(len(groups)), rng.choice(lines)
        unmet[group] = unmet[group] or rng.sample(groups[group], len(groups[group]))
        question = encode(" ".join((fill_slots(before, world, rng), unmet[group].pop(), after)))
        answer = labels[group]
        ids += [*question, *answer, newline]
        loss += [False] * len(question) + [True] * len(answer) + [False]
    return ids[:length], loss[:length]


def phrasing(rng: random.Random, longest: int, subject: str) -> tuple[str, str]:
    """The words before and after the decisive one, the same on every line of an episode up to their slots."""
    if longest <= 2:
        return (subject if subject in FEATURES else phrase(rng, longest)), ""
    after = phrase(rng, 2) if rng.random() < 0.15 else ""
    if subject in FEATURES and rng.random() < 0.7:
        return f"{hint(rng, subject)} {phrase(rng, 2)} {rng.choice(('', 'the', ': the', '? the', ', the'))}", after
    return phrase(rng, longest), after


def hint(rng: random.Random, feature: str) -> str:
    """Words that tell which feature the labels go by: its name, its values, or what happens because of it."""
    kind = rng.randrange(3)
    if kind == 0:
        return feature
    if kind == 1:
        return " or ".join(rng.sample(FEATURES[feature], 2))
    return rng.choice(stories.EVENTS[feature]).replace("the {n}", "").replace("{n}", "").replace("{o}", "")


def phrase(rng: random.Random, longest: int) -> str:
    words = [rng.choice(label_words()) for _ in range(rng.randint(0, longest))]
    if longest > 2 and words and rng.random() < 0.5:
        words.insert(rng.randrange(len(words)), rng.choice(("{name}", "{noun}")))
        words.append(rng.choice((":", "?", ".", ",", "the")))
    return " ".join(words)


def fill_slots(line: str, world: World, rng: random.Random) -> str:
    return stories.fill(rng, line, noun=rng.choice(world.nouns)) if "{" in line else line


def facts(world: World, rng: random.Random, length: int) -> Tokens:
    """Lines of "feature noun value" for one feature; the loss is on the values. Classes must be known to be matched."""
    feature, newline = rng.choice(tuple(FEATURES)), vocabulary()[NEWLINE]
    ids, loss = [BOS], [False]
    while len(ids) < length:
        noun = rng.choice(world.nouns)
        question, answer = encode(f"{feature} {noun}"), encode(world.features[noun][feature])
        ids += [*question, *answer, newline]
        loss += [False] * len(question) + [True] * len(answer) + [False]
    return ids[:length], loss[:length]


def questions(world: World, rng: random.Random, length: int) -> Tokens:
    """Lines of one pre-training prompt task with their true answers: the natural kind of demonstrations."""
    write = rng.choices(tuple(prompted.TASKS), tuple(prompted.TASKS.values()))[0]
    newline = vocabulary()[NEWLINE]
    ids, loss = [BOS], [False]
    while len(ids) < length:
        question, answer = map(encode, write(world, rng))
        ids += [*question, *answer, newline]
        loss += [False] * len(question) + [True] * len(answer) + [False]
    return ids[:length], loss[:length]


def repeats(rng: random.Random, length: int) -> Tokens:
    """A random sequence of words, twice or more; the loss is on the repetitions, which copying predicts."""
    size = len(vocabulary())
    period = rng.randint(3, rng.choice((8, 16, length // 2 - 1)))
    block = [rng.randrange(len(SPECIALS), size) for _ in range(period)]
    ids = [BOS, *(block * (length // period + 1))][:length]
    return ids, [i > period for i in range(length)]


def plain(world: World, rng: random.Random, length: int) -> Tokens:
    """Stories, one per line, as language modelling."""
    newline = vocabulary()[NEWLINE]
    ids = [BOS]
    while len(ids) < length:
        ids += [*encode(stories.story(world, rng, rng.choice((1, 2, 3)))), newline]
    return ids[:length], [i > 0 for i in range(length)]


def draw(world: World, rng: random.Random, length: int, longest_prefix: int, mixture: Sequence[float]) -> Tokens:
    """One sequence; `mixture` weighs repeats, plain text, facts, natural questions, episodes."""
    kind = rng.choices(range(5), mixture)[0]
    if kind == 0:
        return repeats(rng, length)
    if kind == 1:
        return plain(world, rng, length)
    if kind == 2:
        return facts(world, rng, length)
    if kind == 3:
        return questions(world, rng, length)
    return episode(world, rng, length, longest_prefix)
