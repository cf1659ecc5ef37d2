"""What micro decoders read: plain text, facts, and episodes to be learned in context.

An episode is a list of lines "[words] word [words] label". Its label words are drawn at random, so only its own lines
tell which label goes with what. Three kinds, from easy to hard: `words` (a few words recur, each with a label of its
own), `known` (labels go by a class of the world, half of the words recur) and `classes` (no word recurs before all of
its class have been met, so that only the class can tell). Around the decisive word stand random words, more of them at
each level; no sentence of an evaluated task is among them.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from functools import lru_cache

from adaptbench.microworld import prompted, stories, tasks
from adaptbench.microworld.tokenizer import BOS, NEWLINE, SPECIALS, encode, vocabulary
from adaptbench.microworld.world import FEATURES, LEXICON, NAMES, World

Tokens = tuple[list[int], list[bool]]  # ids and, for each, whether predicting it is part of the loss
Classes = Mapping[str, tuple[str, ...]]  # name of a class -> its words
Frame = tuple[str, str]  # words before and after the decisive one, with slots that every line fills anew

SLOTS = ("{name}", "{noun}", "{adjective}", "{action}")
PUNCTUATION = (":", "?", ".", ",", "the")
# Level -> most words before and after the decisive word, most slots among them, and how often there are words after.
LEVELS = {1: (2, 0, 0, 0.0), 2: (5, 1, 1, 0.15), 3: (10, 3, 3, 0.25)}


@lru_cache(maxsize=1)
def aspects(world: World) -> Mapping[str, Classes]:
    """Every way of sorting words: nouns by their features, other words by what they stand for."""
    by_feature = {f: {v: world.having(f, v) for v in values} for f, values in FEATURES.items()}
    return {**by_feature, **LEXICON}


@lru_cache(maxsize=1)
def content_words(world: World) -> tuple[str, ...]:
    return tuple(word for classes in aspects(world).values() for words in classes.values() for word in words)


@lru_cache(maxsize=1)
def label_words() -> tuple[str, ...]:
    """Ordinary words; never one that labels a held-out or development row."""
    reserved = set(" ".join(c for r in tasks.RECIPES.values() for _, c in r.templates.values()).split())
    reserved |= set(" ".join(stories.outcome_words()).split()) | set(SPECIALS) | {NEWLINE, *NAMES}
    reserved |= set(content_words(tasks.build()))
    return tuple(word for word in vocabulary() if word.isalpha() and word not in reserved)


@lru_cache(maxsize=1)
def all_words() -> tuple[str, ...]:
    return tuple(word for word in vocabulary() if word.isalpha())


def words(world: World, rng: random.Random, length: int, level: int) -> Tokens:
    """Some words recur, each with a label of its own; the loss is on the labels of words met before.

    Here alone any word may be a label: its meaning is no help, so nothing is learned but to repeat it.
    """
    pool = content_words(world) if rng.random() < 0.7 else label_words()
    drawn = rng.sample(pool, rng.choice((3, 4, 6, 8)))
    names = rng.sample(all_words(), rng.choice((2, 3, len(drawn))))
    labels = {word: encode(rng.choice(names)) for word in drawn}
    lines, framed, met = Lines(length), frame(rng, level), set[str]()
    while not lines.full:
        word = rng.choice(drawn)
        lines.add(encode(fill(framed, word, world, rng)), labels[word], word in met)
        met.add(word)
    return lines.tokens


def classes(world: World, rng: random.Random, length: int, level: int, returning: float = 0.0) -> Tokens:
    """Labels go by the classes of one aspect of the world; a share `returning` of the words was met before."""
    groups = list(rng.choice(tuple(aspects(world).values())).values())
    if len(groups) > 2 and (level == 1 or rng.random() < 0.6):
        groups = rng.sample(groups, 2 if level == 1 or len(groups) == 3 else rng.choice((2, 3)))
    words_per_label = 2 if level == 3 and rng.random() < 0.15 else 1
    labels = [encode(" ".join(rng.sample(label_words(), words_per_label))) for _ in groups]
    lines, framed = Lines(length), frame(rng, level)
    met: list[list[str]] = [[] for _ in groups]
    unmet: list[list[str]] = [[] for _ in groups]
    while not lines.full:
        group = rng.randrange(len(groups))
        if met[group] and rng.random() < returning:
            word = rng.choice(met[group])
        else:
            unmet[group] = unmet[group] or rng.sample(groups[group], len(groups[group]))
            word = unmet[group].pop()
            met[group].append(word)
        lines.add(encode(fill(framed, word, world, rng)), labels[group])
    return lines.tokens


def known(world: World, rng: random.Random, length: int, level: int) -> Tokens:
    return classes(world, rng, length, level, returning=0.5)


class Lines:
    """Lines of question and answer until `length` tokens are full."""

    def __init__(self, length: int):
        self._length = length
        self._ids, self._loss = [BOS], [False]

    @property
    def full(self) -> bool:
        return len(self._ids) >= self._length

    @property
    def tokens(self) -> Tokens:
        return self._ids[: self._length], self._loss[: self._length]

    def add(self, question: list[int], answer: list[int], counts: bool = True) -> None:
        self._ids += [*question, *answer, vocabulary()[NEWLINE]]
        self._loss += [False] * len(question) + [counts] * len(answer) + [False]


def frame(rng: random.Random, level: int) -> Frame:
    """The words around the decisive one: the same on every line of an episode, up to their slots."""
    before, after, slots, share = LEVELS[level]
    return phrase(rng, before, slots), phrase(rng, after, 0) if rng.random() < share else ""


def phrase(rng: random.Random, longest: int, slots: int) -> str:
    drawn = [rng.choice(label_words()) for _ in range(rng.randint(0, longest))]
    for _ in range(rng.randint(0, slots)):
        drawn.insert(rng.randint(0, len(drawn)), rng.choice(SLOTS))
    if len(drawn) > 4 and rng.random() < 0.5:
        drawn.insert(rng.randrange(len(drawn)), rng.choice(PUNCTUATION))
    if drawn and rng.random() < 0.4:
        drawn.append(rng.choice(PUNCTUATION))
    return " ".join(drawn)


def fill(framed: Frame, word: str, world: World, rng: random.Random) -> str:
    line = f"{framed[0]} {word} {framed[1]}"
    while "{" in line:
        line = line.replace("{name}", rng.choice(NAMES), 1).replace("{noun}", rng.choice(world.nouns), 1)
        line = line.replace("{adjective}", any_of("opinion", rng), 1).replace("{action}", any_of("deed", rng), 1)
    return line


def any_of(aspect: str, rng: random.Random) -> str:
    return rng.choice(rng.choice(tuple(LEXICON[aspect].values())))


def facts(world: World, rng: random.Random, length: int) -> Tokens:
    """Lines of "aspect word class" for one aspect; the loss is on the classes. They must be known to be matched."""
    aspect, groups = rng.choice(tuple(aspects(world).items()))
    class_of = {word: name for name, group in groups.items() for word in group}
    lines, every = Lines(length), tuple(class_of)
    while not lines.full:
        word = rng.choice(every)
        lines.add(encode(f"{aspect} {word}"), encode(class_of[word]))
    return lines.tokens


def questions(world: World, rng: random.Random, length: int) -> Tokens:
    """Lines of one pre-training prompt task with their true answers: the natural kind of demonstrations."""
    write = rng.choices(tuple(prompted.TASKS), tuple(prompted.TASKS.values()))[0]
    lines = Lines(length)
    while not lines.full:
        question, answer = write(world, rng)
        lines.add(encode(question), encode(answer))
    return lines.tokens


def repeats(world: World, rng: random.Random, length: int) -> Tokens:
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


LEVELLED: dict[str, Callable[[World, random.Random, int, int], Tokens]] = {
    "words": words,
    "known": known,
    "classes": classes,
}
FLAT: dict[str, Callable[[World, random.Random, int], Tokens]] = {
    "repeats": repeats,
    "plain": plain,
    "facts": facts,
    "questions": questions,
}


def draw(world: World, rng: random.Random, length: int, mixture: Mapping[str, float]) -> Tokens:
    """One sequence; `mixture` weighs kinds: a name of FLAT, or one of LEVELLED with its level ("classes_2")."""
    kind = rng.choices(tuple(mixture), tuple(mixture.values()))[0]
    if kind in FLAT:
        return FLAT[kind](world, rng, length)
    name, _, level = kind.partition("_")
    return LEVELLED[name](world, rng, length, int(level))
