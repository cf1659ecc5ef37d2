"""Plain text about the world: facts, consequences, little stories. What a language model reads before any prompt.

Every value of a feature has *consequences* named by other words (heavy things sank, light things floated). Prompted
tasks ask for the value words; held-out tasks ask for consequence words, which occur in this plain text alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from adaptbench.microworld.world import ACTIONS, ADJECTIVES, ATTITUDES, CERTAINTY, FEATURES, NAMES, World

FACTS: dict[str, tuple[str, ...]] = {
    "kind": ("the {n} is a kind of {v}", "every {n} counts as {v}", "{name} saw a {n} , which is some {v}"),
    "colour": ("the {n} is {v}", "a {v} {n} stood there", "{name} painted a {n} , so she needed {v}"),
    "place": ("the {n} is found in the {v}", "in the {v} there was a {n}", "{name} went to the {v} for a {n}"),
    "weight": ("the {n} is {v}", "{name} said the {n} felt {v}", "to carry a {n} is {v} work"),
    "warmth": ("the {n} is {v}", "{name} said the {n} felt {v}", "with a {n} your hand gets {v}"),
    "price": ("the {n} is {v}", "in the shop the {n} is {v}", "{name} bought a {v} {n}"),
}

EVENTS: dict[str, tuple[str, ...]] = {
    "kind": ("after a while the {n} {o}", "{name} looked at the {n} and it {o}", "last night the {n} {o}"),
    "colour": ("the {n} looks like {o}", "{name} saw {o} and thought of the {n}"),
    "place": (
        "the {n} smells of {o}",
        "after the {n} came , the house smelled of {o}",
        "{name} has a {n} and smells of {o}",
    ),
    "weight": ("{name} threw the {n} into the lake and it {o}", "in the lake the {n} {o}", "on water the {n} {o}"),
    "warmth": ("near the snow the {n} {o}", "it was winter and the {n} {o}", "{name} took the {n} outside and it {o}"),
    "price": ("{name} paid for the {n} with {o}", "the {n} was sold for {o}"),
}

# Feature -> value -> what follows. Two-word outcomes make choices of more than one token.
OUTCOMES: dict[str, dict[str, tuple[str, ...]]] = {
    "kind": {
        "animal": ("ran away", "fell asleep", "had puppies"),
        "plant": ("grew leaves", "lost petals", "had roots"),
        "tool": ("broke down", "needed oil", "had screws"),
        "food": ("was eaten", "went stale", "had sauce"),
    },
    "colour": {"red": ("blood",), "blue": ("sky",), "green": ("grass",), "yellow": ("sunshine",)},
    "place": {"kitchen": ("soup",), "forest": ("pine",), "harbour": ("salt",), "attic": ("dust",)},
    "weight": {"heavy": ("sank",), "light": ("floated",)},
    "warmth": {"warm": ("steamed",), "cold": ("froze",)},
    "price": {"cheap": ("pennies",), "costly": ("gold",)},
}

# Properties that follow from the kind, stated in plain text only.
DERIVED: dict[str, frozenset[str]] = {
    "alive": frozenset({"animal", "plant"}),
    "edible": frozenset({"plant", "food"}),
}

VERDICTS = {
    "knowing": ("certain", "always so"),
    "fooling": ("untrue", "never so"),
    "doubting": ("undecided", "sometimes so"),
}

STANDINGS = {"high": ("proven", "settled"), "middle": ("unsettled", "unclear"), "low": ("refuted", "denied")}

MOODS = {"good": ("glad", "cheers", "smiles", "laughs"), "bad": ("upset", "sighs", "weeps", "cries")}

PATTERNS: dict[str, tuple[str, ...]] = {
    "derived": ("the {n} is {x} {w}", "{name} has something {x} {w} : a {n}", "a {n} is a thing {x} {w}"),
    "truth": ("it is {t} that the {n} is {v}", "the {n} is {v} , said {name} , and that was {r}"),
    "action": ("the {n} {a}", "{name} said that the {n} {a}"),
    "homonym": ("the {n} {a}", "the {n} {a} like any {k}", "the {n} , a {k} , {a}"),
    "verdict": ("what {name} {w} is {v}", "if {name} {w} it , it is {v}"),
    "attitude": ("{name} {w} that the {n} is {v}",),
    "consequence": ("if it {o} , it is {v}", "{v} goes with {o}", "{o} , so {v}", "all that is {v} {o}"),
    "standing": ("what is {w} so is {v}", "{name} says {w} : it is {v}", "{w} means {v}"),
    "certainty": ("the {n} is {w} {v}", "{w} the {n} is {v}"),
    "alike": ("in {f} the {n} and the {m} are {x}",),
    "contrast": ("of the {a} and the {b} , the {v} one is the {n}",),
    "opinion": ("the {n} was {j} and {name} is {g}", "{name} {c} , for the {n} is {j}"),
}

# Words that the code, not a pattern, puts into sentences.
WORDS = ("not", "true", "false", "right", "wrong", "the same", "different", MOODS)

# Sentences about nothing in particular, so that the small words of every prompt have been read before.
CHATTER = (
    "what happens next ? nobody can tell , so take a guess",
    "here is a short story of a day with {name} and {name2}",
    "does it follow ? {name} read the sentence and gave one answer",
    "finish the line , said {name} , and then we eat",
    "given that , is it so ? {name} did not say",
    "which word goes there ? {name} and {name2} want to know",
    "who or what does it mean here ? the word can mean a few things",
    "if this holds then we also get that",
    "how do both sentences use the word ? {name} has a sense of it",
    "is the claim right or wrong ? let us judge it",
    "tell me how it ends : first , then , and last",
    "the end of the tale came too soon for {name}",
    "they talk about one of the two , not both of them",
    "{name} would buy it from {name2} , or sell it",
    "suppose we take it to be true , must it be ?",
    "in which mood was {name} ? {name2} could not see",
    "one thing led to another and it was over",
    "pick the one that was meant , or choose by chance",
    "now the boat is being moved off the stairs !",
    "{name} tells our boat when to go , before it goes off",
    "no smell comes up the stairs now",
    "good morning , said {name} , and turned to stand on the boat",
    "do you have it ? {name} does , but dropped it",
    "hold on , said {name} , it cannot be",
    "it being late , {name} tells of our day and goes off",
)


def sentence(world: World, rng: random.Random, noun: str | None = None) -> str:
    """One sentence of plain text, about `noun` or about a noun drawn by its frequency."""
    noun = noun or draw_noun(world, rng)
    kinds: tuple[tuple[Callable[..., str], float], ...] = (
        (fact, 0.24), (event, 0.24), (derived, 0.08), (truth, 0.06), (action, 0.06), (homonym, 0.05),
        (attitude, 0.06), (contrast, 0.05), (opinion, 0.04), (chatter, 0.03), (consequence, 0.06), (certainty, 0.06),
    )  # fmt: skip
    write = rng.choices([k for k, _ in kinds], [w for _, w in kinds])[0]
    return write(world, rng, noun)


def story(world: World, rng: random.Random, sentences: int = 2) -> str:
    """A few sentences about one noun."""
    noun = draw_noun(world, rng)
    return " . ".join(sentence(world, rng, noun) for _ in range(sentences))


def draw_noun(world: World, rng: random.Random) -> str:
    return rng.choices(world.nouns, world.weights)[0]


def fact(world: World, rng: random.Random, noun: str) -> str:
    feature = rng.choice(tuple(FEATURES))
    return fill(rng, rng.choice(FACTS[feature]), n=noun, v=world.features[noun][feature])


def event(world: World, rng: random.Random, noun: str) -> str:
    feature = rng.choice(tuple(FEATURES))
    outcome = rng.choice(OUTCOMES[feature][world.features[noun][feature]])
    return fill(rng, rng.choice(EVENTS[feature]), n=noun, o=outcome)


def derived(world: World, rng: random.Random, noun: str) -> str:
    word = rng.choice(tuple(DERIVED))
    holds = world.features[noun]["kind"] in DERIVED[word]
    pattern = rng.choice(PATTERNS["derived"])
    return fill(rng, pattern, n=noun, w=word, x="" if holds else "not")


def truth(world: World, rng: random.Random, noun: str) -> str:
    """Talk about what is true: gives the words true, false, right and wrong their meaning."""
    holds = rng.random() < 0.5
    if rng.random() < 0.5:
        word = rng.choice(tuple(DERIVED))
        if (world.features[noun]["kind"] in DERIVED[word]) != holds:
            word = next(w for w in DERIVED if w != word)
            holds = world.features[noun]["kind"] in DERIVED[word]
    else:
        feature = rng.choice(tuple(FEATURES))
        word = value(world, rng, noun, feature, holds)
    pattern = rng.choice(PATTERNS["truth"])
    return fill(rng, pattern, n=noun, v=word, t="true" if holds else "false", r="right" if holds else "wrong")


def action(world: World, rng: random.Random, noun: str) -> str:
    return fill(rng, rng.choice(PATTERNS["action"]), n=noun, a=rng.choice(ACTIONS[world.features[noun]["kind"]]))


def homonym(world: World, rng: random.Random, noun: str) -> str:
    word = rng.choice(tuple(world.homonyms))
    kind = rng.choice(world.homonyms[word])
    pattern = rng.choice(PATTERNS["homonym"])
    return fill(rng, pattern, n=word, k=kind, a=rng.choice(ACTIONS[kind]))


def attitude(world: World, rng: random.Random, noun: str) -> str:
    stance = rng.choice(tuple(ATTITUDES))
    verb = rng.choice(ATTITUDES[stance])
    if rng.random() < 0.5:
        return fill(rng, rng.choice(PATTERNS["verdict"]), w=verb, v=rng.choice(VERDICTS[stance]))
    feature = rng.choice(("colour", "weight", "price"))
    holds = stance == "knowing" or (stance == "doubting" and rng.random() < 0.5)
    return fill(rng, rng.choice(PATTERNS["attitude"]), n=noun, w=verb, v=value(world, rng, noun, feature, holds))


def consequence(world: World, rng: random.Random, noun: str) -> str:
    """What a value brings about, said of nothing in particular: ties consequence words to value words."""
    feature = rng.choice(tuple(FEATURES))
    mine = world.features[noun][feature]
    return fill(rng, rng.choice(PATTERNS["consequence"]), v=mine, o=rng.choice(OUTCOMES[feature][mine]))


def certainty(world: World, rng: random.Random, noun: str) -> str:
    degree = rng.choice(tuple(CERTAINTY))
    word = rng.choice(CERTAINTY[degree])
    if rng.random() < 0.5:
        return fill(rng, rng.choice(PATTERNS["standing"]), w=word, v=rng.choice(STANDINGS[degree]))
    holds = degree == "high" or (degree == "middle" and rng.random() < 0.5)
    feature = rng.choice(("colour", "weight", "price"))
    return fill(rng, rng.choice(PATTERNS["certainty"]), n=noun, w=word, v=value(world, rng, noun, feature, holds))


def contrast(world: World, rng: random.Random, noun: str) -> str:
    """Two nouns side by side: alike or different in one feature, or one of them picked out by it."""
    other = rng.choice(world.nouns)
    feature = rng.choice(tuple(FEATURES))
    mine, yours = world.features[noun][feature], world.features[other][feature]
    if mine == yours or rng.random() < 0.5:
        alike = "the same" if mine == yours else "different"
        return fill(rng, rng.choice(PATTERNS["alike"]), n=noun, m=other, f=feature, x=alike)
    first, second = rng.sample((noun, other), 2)
    return fill(rng, rng.choice(PATTERNS["contrast"]), a=first, b=second, v=mine, n=noun)


def opinion(world: World, rng: random.Random, noun: str) -> str:
    mood = rng.choice(tuple(ADJECTIVES))
    word = MOODS[mood]
    adjective = rng.choice(ADJECTIVES[mood])
    pattern = rng.choice(PATTERNS["opinion"])
    return fill(rng, pattern, n=noun, j=adjective, g=word[0], c=rng.choice(word[1:]))


def chatter(world: World, rng: random.Random, noun: str) -> str:
    return fill(rng, rng.choice(CHATTER), n=noun)


def value(world: World, rng: random.Random, noun: str, feature: str, holds: bool) -> str:
    """A value word that is true of the noun, or one that is not."""
    mine = world.features[noun][feature]
    return mine if holds else rng.choice([v for v in FEATURES[feature] if v != mine])


def fill(rng: random.Random, pattern: str, **words: str) -> str:
    name, name2 = rng.sample(NAMES, 2)
    return " ".join(pattern.format(name=name, name2=name2, **words).split())


def outcome_words() -> tuple[str, ...]:
    """All words that name a consequence."""
    return tuple(word for values in OUTCOMES.values() for words in values.values() for word in words)
