"""Prompted tasks for pre-training: what turns a micro language model into a micro T0.

A task is a function `(world, rng) -> (input, answer)`; many ways of asking for values, opinions, topics and mentions.
None of the held-out families (completion, inference, pronouns, word sense) is among them, and no answer here is a
label word there.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from adaptbench.microworld.stories import draw_noun, fill, value
from adaptbench.microworld.world import ACTIONS, ADJECTIVES, FEATURES, NAMES, World

ASK = (
    "what is the {f} of the {n} ?",
    "tell me the {f} : {n}",
    "question : {n} , which {f} ? answer :",
    "{n} . its {f} ?",
    "i want to know the {f} of a {n}",
    "name the {f} of this {n}",
)
CHOOSE = (
    "is the {n} {a} or {b} ?",
    "options {a} , {b} . the {n} is",
    "{n} : {a} / {b} ?",
    "choose between {a} and {b} for the {n}",
)
CONFIRM = ("is the {n} {v} ?", "would you call the {n} {v} ?", "{v} , the {n} , is it ?", "check this : {n} {v}")
FIND = (
    "find the {v} one : {a} / {b}",
    "{a} and {b} . select what is {v}",
    "between {a} and {b} , only this is {v}",
    "{v} ? {a} or {b}",
)
COMPARE = (
    "do the {n} and the {m} share their {f} ?",
    "{n} and {m} , equal {f} ?",
    "compare the {f} of {n} with {m}",
)
REVIEW = (
    "review : the {n} was {j} . good or bad ?",
    "{name} wrote that the {n} is {j} . verdict :",
    "rate the {n} . it seemed {j}",
    "{j} {n} . how would you rate this ?",
)
FEELING = ("{name} got a {j} {n} . {name} feels", "happy or sad ? {name} has a {j} {n}")
TOPIC = ("topic of the text : something {a}", "text : it {a} . this is about", "{name} wrote : it {a} . topic ?")
MENTION = (
    ("{name} gave the {n} to {name2} . to whom ?", "name2"),
    ("{name} gave the {n} to {name2} . from whom ?", "name"),
    ("{name} left a {n} at home . left what ?", "n"),
    ("extract the thing : {name} met {name2} with a {n}", "n"),
)
PATTERNS = (ASK, CHOOSE, CONFIRM, FIND, COMPARE, REVIEW, FEELING, TOPIC, tuple(text for text, _ in MENTION))
ANSWERS = ("yes", "no", "happy", "sad", "good", "bad")


def ask(world: World, rng: random.Random) -> tuple[str, str]:
    noun, feature = draw_noun(world, rng), rng.choice(tuple(FEATURES))
    return fill(rng, rng.choice(ASK), n=noun, f=feature), world.features[noun][feature]


def choose(world: World, rng: random.Random) -> tuple[str, str]:
    noun, feature = draw_noun(world, rng), rng.choice(tuple(FEATURES))
    mine, other = world.features[noun][feature], value(world, rng, noun, feature, False)
    a, b = rng.sample((mine, other), 2)
    return fill(rng, rng.choice(CHOOSE), n=noun, a=a, b=b), mine


def confirm(world: World, rng: random.Random) -> tuple[str, str]:
    noun, feature, holds = draw_noun(world, rng), rng.choice(tuple(FEATURES)), rng.random() < 0.5
    text = fill(rng, rng.choice(CONFIRM), n=noun, v=value(world, rng, noun, feature, holds))
    return text, "yes" if holds else "no"


def find(world: World, rng: random.Random) -> tuple[str, str]:
    noun, feature = draw_noun(world, rng), rng.choice(tuple(FEATURES))
    mine = world.features[noun][feature]
    other = draw_noun(world, rng)
    while world.features[other][feature] == mine:
        other = draw_noun(world, rng)
    a, b = rng.sample((noun, other), 2)
    return fill(rng, rng.choice(FIND), v=mine, a=a, b=b), noun


def compare(world: World, rng: random.Random) -> tuple[str, str]:
    noun, feature, equal = draw_noun(world, rng), rng.choice(tuple(FEATURES)), rng.random() < 0.5
    mine = world.features[noun][feature]
    other = draw_noun(world, rng)
    while other == noun or (world.features[other][feature] == mine) != equal:
        other = draw_noun(world, rng)
    return fill(rng, rng.choice(COMPARE), n=noun, m=other, f=feature), "yes" if equal else "no"


def review(world: World, rng: random.Random) -> tuple[str, str]:
    mood = rng.choice(tuple(ADJECTIVES))
    words = {"n": draw_noun(world, rng), "j": rng.choice(ADJECTIVES[mood])}
    if rng.random() < 0.3:
        return fill(rng, rng.choice(FEELING), **words), "happy" if mood == "good" else "sad"
    return fill(rng, rng.choice(REVIEW), **words), mood


def topic(world: World, rng: random.Random) -> tuple[str, str]:
    kind = rng.choice(tuple(ACTIONS))
    return fill(rng, rng.choice(TOPIC), a=rng.choice(ACTIONS[kind])), kind


def mention(world: World, rng: random.Random) -> tuple[str, str]:
    text, field = rng.choice(MENTION)
    name, name2 = rng.sample(NAMES, 2)
    words = {"n": draw_noun(world, rng), "name": name, "name2": name2}
    return text.format(**words), words[field]


TASKS: dict[Callable[[World, random.Random], tuple[str, str]], float] = {
    ask: 0.26,
    choose: 0.18,
    confirm: 0.14,
    find: 0.16,
    compare: 0.10,
    review: 0.06,
    topic: 0.05,
    mention: 0.05,
}


def example(world: World, rng: random.Random) -> tuple[str, str]:
    return rng.choices(tuple(TASKS), tuple(TASKS.values()))[0](world, rng)
