"""Held-out few-shot tasks in the paper's four families, and development tasks for tuning hyper-parameters.

Every answer follows from the world's latent features through words that occur in plain text but are never the answer
to a prompt in pre-training (see stories.py). The words a label hangs on (a noun, a verb, an adjective) are split:
those of evaluation rows occur in no training row, so nothing can be solved by remembering a demonstration.
Most templates end with that word, because small decoders learn in context only when the label follows it directly.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from adaptbench.microworld.stories import DERIVED, OUTCOMES, value
from adaptbench.microworld.world import ACTIONS, ADJECTIVES, ATTITUDES, CERTAINTY, FEATURES, NAMES, World, build

TRAIN_ROWS = 2400
EVALUATION_ROWS = 500

Row = dict[str, Any]


@dataclass(frozen=True)
class MicroTask:
    """Rows are flat dicts with "uid" and an integer "label"; templates {"name", "jinja", "answer_choices"} as in P3."""

    name: str
    family: str
    shots: int
    train: tuple[Row, ...]
    evaluation: tuple[Row, ...]
    templates: tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Recipe:
    """How to write one task: `row(words, label, rng)` with the nouns, verbs, ... of the split in `words`."""

    family: str
    choices: int
    row: Callable[[Words, int, random.Random], Row]
    templates: dict[str, tuple[str, str]]  # name -> (input, answer choices)
    split: str = "held_out"
    shots: int = 32


@dataclass(frozen=True)
class Words:
    """The part of the world's words that one split of a task may use."""

    world: World
    nouns: tuple[str, ...]
    homonyms: tuple[str, ...]
    attitudes: dict[str, tuple[str, ...]]
    adjectives: dict[str, tuple[str, ...]]
    adverbs: dict[str, tuple[str, ...]]

    def noun(self, rng: random.Random, feature: str, *values: str) -> str:
        return rng.choice([n for n in self.nouns if self.world.features[n][feature] in values])


def words_of(world: World, evaluation: bool) -> Words:
    """Every fifth noun (and a third of the short lists) is for evaluation rows, the rest for training rows."""

    def part(items: Sequence[str], every: int) -> tuple[str, ...]:
        return tuple(w for i, w in enumerate(items) if (i % every == 0) == evaluation)

    return Words(
        world=world,
        nouns=part(world.nouns, 5),
        homonyms=part(tuple(world.homonyms), 3),
        attitudes={stance: part(verbs, 3) for stance, verbs in ATTITUDES.items()},
        adjectives={mood: part(words, 3) for mood, words in ADJECTIVES.items()},
        adverbs={degree: part(words, 3) for degree, words in CERTAINTY.items()},
    )


# --- sentence completion ---------------------------------------------------------------------------------------------

COPA_EVENTS = {
    "weight": ("in the lake", "on water", "off the boat"),
    "warmth": ("near the snow", "in winter", "outside"),
}


def copa_row(words: Words, label: int, rng: random.Random) -> Row:
    feature = rng.choice(tuple(COPA_EVENTS))
    order = rng.sample(FEATURES[feature], 2)
    outcomes = [OUTCOMES[feature][v][0] for v in order]
    noun = words.noun(rng, feature, order[label])
    event = rng.choice(COPA_EVENTS[feature])
    name = rng.choice(NAMES)
    return {"event": event, "name": name, "noun": noun, "outcome_1": outcomes[0], "outcome_2": outcomes[1]}


HSWAG_OPENINGS = {
    "kind": ("by the end of the day ,", "then , over night ,", "when we came too soon ,"),
    "place": ("a smell came over us :", "our hand got a smell :", "what is the smell ?"),
}


def hswag_row(words: Words, label: int, rng: random.Random) -> Row:
    feature = rng.choice(tuple(HSWAG_OPENINGS))
    order = rng.sample(FEATURES[feature], 4)
    endings = {f"ending_{i}": rng.choice(OUTCOMES[feature][v]) for i, v in enumerate(order)}
    noun = words.noun(rng, feature, order[label])
    return {"opening": rng.choice(HSWAG_OPENINGS[feature]), "name": rng.choice(NAMES), "noun": noun, **endings}


def storycloze_row(words: Words, label: int, rng: random.Random) -> Row:
    """The mood at the end of the story decides, whatever it was at the beginning."""
    return {
        "name": rng.choice(NAMES),
        "noun": rng.choice(words.nouns),
        "adjective_1": rng.choice(words.adjectives[rng.choice(("good", "bad"))]),
        "adjective_2": rng.choice(words.adjectives[("good", "bad")[label]]),
    }


# --- natural language inference ---------------------------------------------------------------------------------------


def rte_row(words: Words, label: int, rng: random.Random) -> Row:
    """Does "ann bought a blicket" entail "ann bought something edible"? (0: it does)"""
    claim = rng.choice(tuple(DERIVED))
    kinds = [k for k in FEATURES["kind"] if (k in DERIVED[claim]) == (label == 0)]
    noun = words.noun(rng, "kind", *kinds)
    return {"name": rng.choice(NAMES), "verb": rng.choice(RTE_VERBS), "noun": noun, "claim": claim}


RTE_VERBS = ("saw", "bought", "moved", "dropped", "took", "painted")


def cb_row(words: Words, label: int, rng: random.Random) -> Row:
    """Embedded clauses: does "bob pretended that the blicket is red" commit us to it? (yes, the opposite, neither)"""
    stance = ("knowing", "fooling", "doubting")[label]
    noun, feature = rng.choice(words.nouns), rng.choice(("colour", "weight", "price"))
    holds = stance == "knowing" or (stance == "doubting" and rng.random() < 0.5)
    return {
        "name": rng.choice(NAMES),
        "verb": rng.choice(words.attitudes[stance]),
        "noun": noun,
        "value": value(words.world, rng, noun, feature, holds),
    }


DEGREES = ("high", "middle", "low")  # entailment, neutral, contradiction


def anli_r1_row(words: Words, label: int, rng: random.Random) -> Row:
    """One adverb decides: what is said so is proven, unsettled or refuted."""
    return {
        "name": rng.choice(NAMES),
        "noun": rng.choice(words.nouns),
        "event": rng.choice(sum(COPA_EVENTS.values(), ())),
        "adverb": rng.choice(words.adverbs[DEGREES[label]]),
    }


def turned(label: int) -> int:
    """The label of the negated statement."""
    return 2 - label


def anli_r2_row(words: Words, label: int, rng: random.Random) -> Row:
    """The adverb of r1, and a negation that turns it around."""
    negated = rng.random() < 0.5
    row = anli_r1_row(words, turned(label) if negated else label, rng)
    return {**row, "polarity": "cannot" if negated else "does"}


def anli_r3_row(words: Words, label: int, rng: random.Random) -> Row:
    """The adverb of r1 about something that does or does not follow from the noun: world knowledge turns it around."""
    follows = rng.random() < 0.5
    row = anli_r1_row(words, label if follows else turned(label), rng)
    feature = next(f for f, events in COPA_EVENTS.items() if row["event"] in events)
    true = words.world.features[row["noun"]][feature]
    stated = true if follows else next(v for v in FEATURES[feature] if v != true)
    return {**row, "outcome": OUTCOMES[feature][stated][0]}


# --- coreference ------------------------------------------------------------------------------------------------------


def two_nouns(words: Words, label: int, rng: random.Random, feature: str) -> tuple[list[str], str]:
    """Two nouns that differ in a feature, and the value that the one at `label` has."""
    order = rng.sample(FEATURES[feature], 2)
    return [words.noun(rng, feature, v) for v in order], order[label]


def winogrande_row(words: Words, label: int, rng: random.Random) -> Row:
    feature = rng.choice(tuple(COPA_EVENTS))
    nouns, meant = two_nouns(words, label, rng, feature)
    return {
        "event": rng.choice(COPA_EVENTS[feature]),
        "noun_1": nouns[0],
        "noun_2": nouns[1],
        "outcome": OUTCOMES[feature][meant][0],
        "name": rng.choice(NAMES),
    }


def wsc_row(words: Words, label: int, rng: random.Random) -> Row:
    """Can "it" stand for the noun? Only if what is said of it fits the noun. (0: it can)"""
    feature = rng.choice(tuple(COPA_EVENTS))
    noun = rng.choice(words.nouns)
    stated = value(words.world, rng, noun, feature, holds=label == 0)
    return {
        "event": rng.choice(COPA_EVENTS[feature]),
        "noun": noun,
        "outcome": OUTCOMES[feature][stated][0],
        "name": rng.choice(NAMES),
    }


# --- word sense -------------------------------------------------------------------------------------------------------


def wic_row(words: Words, label: int, rng: random.Random) -> Row:
    """Two uses of an ambiguous word: two senses (0) or one (1)."""
    word = rng.choice(words.homonyms)
    kinds = rng.sample(words.world.homonyms[word], 2)
    if label == 1:
        kinds[1] = kinds[0]
    return {"word": word, **{f"verb_{i + 1}": rng.choice(ACTIONS[kind]) for i, kind in enumerate(kinds)}}


# --- development ------------------------------------------------------------------------------------------------------


def mood_row(words: Words, label: int, rng: random.Random) -> Row:
    adjective = rng.choice(words.adjectives[("good", "bad")[label]])
    return {"name": rng.choice(NAMES), "noun": rng.choice(words.nouns), "adjective": adjective}


def look_row(words: Words, label: int, rng: random.Random) -> Row:
    name_1, name_2 = rng.sample(NAMES, 2)
    return {"name_1": name_1, "name_2": name_2, "noun": words.noun(rng, "colour", FEATURES["colour"][label])}


PICK_NEEDS = {"place": ("smells of", "has a smell of"), "price": ("was sold for", "is had for")}


def pick_row(words: Words, label: int, rng: random.Random) -> Row:
    feature = rng.choice(tuple(PICK_NEEDS))
    nouns, meant = two_nouns(words, label, rng, feature)
    need = f"{rng.choice(PICK_NEEDS[feature])} {OUTCOMES[feature][meant][0]}"
    return {"noun_1": nouns[0], "noun_2": nouns[1], "need": need, "name": rng.choice(NAMES)}


OUTCOME_CHOICES = "{{ outcome_1 }} ||| {{ outcome_2 }}"
ENDINGS = "{{ ending_0 }} ||| {{ ending_1 }} ||| {{ ending_2 }} ||| {{ ending_3 }}"
COLOUR_LIKENESS = "blood ||| sky ||| grass ||| sunshine"
NOUNS = "{{ noun_1 }} ||| {{ noun_2 }}"

RECIPES: dict[str, Recipe] = {
    "micro_copa": Recipe(
        "sentence completion",
        2,
        copa_row,
        {
            "what_happens": ("what happens next to {{ name }} {{ event }} ? the {{ noun }}", OUTCOME_CHOICES),
            "guess": (
                "{{ outcome_1 }} or {{ outcome_2 }} {{ event }} ? {{ name }} , guess : the {{ noun }}",
                OUTCOME_CHOICES,
            ),
            "finish": ("finish the line : {{ event }} {{ name }} also saw the {{ noun }}", OUTCOME_CHOICES),
            "day": ("one day {{ name }} had a {{ noun }} {{ event }} , and then it", OUTCOME_CHOICES),
        },
    ),
    "micro_hswag": Recipe(
        "sentence completion",
        4,
        hswag_row,
        {
            "tale": ("how it ends : {{ opening }} the {{ noun }}", ENDINGS),
            "goes_on": ("{{ opening }} tell me the end of the {{ noun }}", ENDINGS),
            "told": ("{{ name }} did talk about a {{ noun }} . {{ opening }} it", ENDINGS),
        },
        shots=20,
    ),
    "micro_storycloze": Recipe(
        "sentence completion",
        2,
        storycloze_row,
        {
            "turned": (
                "in the morning {{ name }} got a {{ adjective_1 }} {{ noun }} . too soon it turned {{ adjective_2 }}",
                "smiles ||| weeps",
            ),
            "tale": (
                "{{ name }} has a tale : first the {{ noun }} is {{ adjective_1 }} , and last it is {{ adjective_2 }}",
                "laughs ||| cries",
            ),
            "grew": (
                "one {{ noun }} ! {{ adjective_1 }} at first , but as {{ name }} had it , it grew {{ adjective_2 }}",
                "smiles ||| weeps",
            ),
        },
        shots=70,
    ),
    "micro_rte": Recipe(
        "natural language inference",
        2,
        rte_row,
        {
            "follows": (
                "does it follow that {{ name }} {{ verb }} something {{ claim }} ? {{ name }} {{ verb }} a {{ noun }}",
                "true ||| false",
            ),
            "claim": ("is the claim {{ claim }} right or wrong for this ? the {{ noun }}", "right ||| wrong"),
            "suppose": ("suppose {{ name }} {{ verb }} a {{ noun }} . must it be {{ claim }} ?", "true ||| false"),
        },
    ),
    "micro_cb": Recipe(
        "natural language inference",
        3,
        cb_row,
        {
            "so": ("is the {{ noun }} {{ value }} then ? so {{ name }} {{ verb }}", "certain ||| untrue ||| undecided"),
            "judge": (
                "let us judge : a {{ value }} {{ noun }} , as {{ name }} {{ verb }}",
                "always ||| never ||| sometimes",
            ),
            "given": (
                "given that {{ name }} {{ verb }} it , the {{ noun }} being {{ value }} is",
                "certain ||| untrue ||| undecided",
            ),
        },
    ),
    "micro_anli_r1": Recipe(
        "natural language inference",
        3,
        anli_r1_row,
        {
            "seen": (
                "{{ event }} {{ name }} met the {{ noun }} , they tell us . is it so ? {{ adverb }}",
                "proven ||| unsettled ||| refuted",
            ),
            "stands": (
                "the claim is that {{ name }} has the {{ noun }} {{ event }} {{ adverb }}",
                "settled ||| unclear ||| denied",
            ),
            "judged": (
                "did {{ name }} have a {{ noun }} {{ event }} ? one judge : {{ adverb }}",
                "proven ||| unsettled ||| refuted",
            ),
        },
        shots=50,
    ),
    "micro_anli_r2": Recipe(
        "natural language inference",
        3,
        anli_r2_row,
        {
            "seen": (
                "{{ event }} {{ name }} met the {{ noun }} , they tell us . it {{ polarity }} be so {{ adverb }}",
                "proven ||| unsettled ||| refuted",
            ),
            "stands": (
                "the claim that {{ name }} has the {{ noun }} {{ event }} {{ polarity }} hold {{ adverb }}",
                "settled ||| unclear ||| denied",
            ),
            "judged": (
                "did {{ name }} have a {{ noun }} {{ event }} ? one judge : it {{ polarity }} , {{ adverb }}",
                "proven ||| unsettled ||| refuted",
            ),
        },
        shots=50,
    ),
    "micro_anli_r3": Recipe(
        "natural language inference",
        3,
        anli_r3_row,
        {
            "seen": (
                "{{ event }} {{ name }} met the {{ noun }} , it {{ outcome }} they tell us . is it so ? {{ adverb }}",
                "proven ||| unsettled ||| refuted",
            ),
            "stands": (
                "the claim is that for {{ name }} the {{ noun }} {{ event }} {{ outcome }} {{ adverb }}",
                "settled ||| unclear ||| denied",
            ),
            "judged": (
                "did the {{ noun }} {{ event }} that {{ name }} has be what {{ outcome }} ? one judge : {{ adverb }}",
                "proven ||| unsettled ||| refuted",
            ),
        },
        shots=50,
    ),
    "micro_winogrande": Recipe(
        "coreference",
        2,
        winogrande_row,
        {
            "meant": ("{{ event }} it {{ outcome }} . does it mean the {{ noun_1 }} or the {{ noun_2 }} ? the", NOUNS),
            "who": (
                "{{ name }} had the {{ noun_1 }} and the {{ noun_2 }} {{ event }} . what {{ outcome }} ? the",
                NOUNS,
            ),
            "talk": (
                "they talk about the {{ noun_1 }} and the {{ noun_2 }} : {{ event }} it {{ outcome }} , the",
                NOUNS,
            ),
        },
        shots=50,
    ),
    "micro_wsc": Recipe(
        "coreference",
        2,
        wsc_row,
        {
            "stand_for": ("{{ event }} it {{ outcome }} : can it stand for the {{ noun }} ?", "true ||| false"),
            "thing": (
                "{{ name }} had a {{ noun }} . {{ event }} the thing {{ outcome }} . is the {{ noun }} that thing ?",
                "right ||| wrong",
            ),
            "says": ("who or what {{ outcome }} {{ event }} ? {{ name }} says the {{ noun }}", "right ||| wrong"),
        },
    ),
    "micro_wic": Recipe(
        "word sense",
        2,
        wic_row,
        {
            "sense": (
                "the sense of {{ word }} in both ? the {{ word }} {{ verb_1 }} , the {{ word }} {{ verb_2 }}",
                "different ||| same",
            ),
            "uses": (
                "{{ word }} {{ verb_1 }} . {{ word }} {{ verb_2 }} . do both use the word {{ word }} the same ?",
                "wrong ||| right",
            ),
            "few_things": (
                "the word {{ word }} can mean a few things : it {{ verb_1 }} , and here it {{ verb_2 }}",
                "different ||| same",
            ),
        },
    ),
    "micro_dev_mood": Recipe(
        "development",
        2,
        mood_row,
        {
            "mood": ("in which mood is {{ name }} ? the {{ noun }} was {{ adjective }}", "glad ||| upset"),
            "does": ("{{ name }} tells of a {{ noun }} , it being {{ adjective }}", "cheers ||| sighs"),
            "was": ("that {{ adjective }} {{ noun }} ! by now {{ name }} is", "glad ||| upset"),
        },
        split="development",
    ),
    "micro_dev_look": Recipe(
        "development",
        4,
        look_row,
        {
            "like": ("to {{ name_1 }} and {{ name_2 }} it is like what ? the {{ noun }}", COLOUR_LIKENESS),
            "thought": ("which thought had {{ name_1 }} and {{ name_2 }} before a {{ noun }}", COLOUR_LIKENESS),
            "remind": ("the {{ noun }} : {{ name_1 }} and {{ name_2 }} would take it for", COLOUR_LIKENESS),
        },
        split="development",
    ),
    "micro_dev_pick": Recipe(
        "development",
        2,
        pick_row,
        {
            "one_of": ("one of them {{ need }} , {{ noun_1 }} or {{ noun_2 }} ? the", NOUNS),
            "it": ("{{ name }} has the {{ noun_1 }} and the {{ noun_2 }} . it {{ need }} , so it is the", NOUNS),
        },
        split="development",
    ),
}


def names(split: str = "held_out") -> tuple[str, ...]:
    """Names of the tasks of a split: "held_out" (the experiment) or "development" (tuning)."""
    return tuple(name for name, recipe in RECIPES.items() if recipe.split == split)


@cache
def load(name: str) -> MicroTask:
    """The task of that name, the same in every process."""
    if name not in RECIPES:
        raise KeyError(f"no embedded task {name!r}; there are {', '.join(RECIPES)}")
    recipe, world = RECIPES[name], build()
    return MicroTask(
        name=name,
        family=recipe.family,
        shots=recipe.shots,
        train=rows(name, recipe, words_of(world, evaluation=False), "train", TRAIN_ROWS),
        evaluation=rows(name, recipe, words_of(world, evaluation=True), "evaluation", EVALUATION_ROWS),
        templates=tuple(
            {"name": title, "jinja": f"{text} ||| {{{{ answer_choices[label] }}}}", "answer_choices": choices}
            for title, (text, choices) in recipe.templates.items()
        ),
    )


def rows(name: str, recipe: Recipe, words: Words, split: str, count: int) -> tuple[Row, ...]:
    """`count` different rows with labels in equal parts, in random order."""
    rng = random.Random(f"{words.world.seed}/{name}/{split}")
    unique: dict[tuple[Any, ...], Row] = {}
    for _ in range(50 * count):
        if len(unique) == count:
            break
        label = len(unique) % recipe.choices
        row = recipe.row(words, label, rng)
        unique.setdefault(tuple(row.values()), {**row, "label": label})
    if len(unique) < count:
        raise ValueError(f"{name}: the world has only {len(unique)} different {split} rows of {count}")
    drawn = rng.sample(list(unique.values()), count)
    return tuple({"uid": f"{name}/{split}/{i}", **row} for i, row in enumerate(drawn))
