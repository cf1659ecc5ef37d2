"""A hundred and twenty invented nouns with six latent features each: everything else follows from this file.

The features are independent of one another, so a model can only know that a blicket is heavy by having read about
blickets. English words (names, adjectives, verbs) are fixed lists; nouns and their features come from the seed.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

SEED = 2205
NOUNS = 120
HOMONYMS = 24

# Feature -> the words that name its values. Their consequences ("heavy things sink") live in stories.py.
FEATURES: dict[str, tuple[str, ...]] = {
    "kind": ("animal", "plant", "tool", "food"),
    "colour": ("red", "blue", "green", "yellow"),
    "place": ("kitchen", "forest", "harbour", "attic"),
    "weight": ("heavy", "light"),
    "warmth": ("warm", "cold"),
    "price": ("cheap", "costly"),
}

NAMES = tuple(
    ("ann bob carl dora emil fay gus hana ivan jill karl lena mona nils olga paul rita sven tess udo").split()
)

ADJECTIVES: dict[str, tuple[str, ...]] = {
    "good": tuple(
        (
            "lovely superb splendid delightful charming pleasant marvellous brilliant excellent "
            "wonderful fantastic fine adorable perfect"
        ).split()
    ),
    "bad": tuple(
        (
            "dreadful horrid nasty dismal shabby rotten terrible miserable ghastly poor boring ugly useless hopeless"
        ).split()
    ),
}

# What each kind of thing does; a homonym means whichever of its two kinds the verb asks for.
ACTIONS: dict[str, tuple[str, ...]] = {
    "animal": tuple("barked slept hunted growled purred swam chewed yawned limped sneezed".split()),
    "plant": tuple("bloomed sprouted withered wilted budded rooted ripened blossomed swayed leafed".split()),
    "tool": tuple("drilled sawed hammered sliced jammed rusted squeaked whirred snapped clicked".split()),
    "food": tuple("simmered baked burned boiled spoiled fried cooled curdled crumbled thickened".split()),
}

# Whether "ann VERB that p" commits a reader to p, to its opposite, or to nothing.
ATTITUDES: dict[str, tuple[str, ...]] = {
    "knowing": tuple(
        ("knew saw proved learned noticed remembered confirmed realised discovered admitted verified recalled").split()
    ),
    "fooling": tuple(
        ("pretended lied imagined dreamed faked invented joked fantasised bluffed fibbed hallucinated misread").split()
    ),
    "doubting": tuple(
        ("hoped thought guessed wished believed expected feared wondered supposed suspected figured reckoned").split()
    ),
}

# How sure a speaker is: what is said so is settled, denied or left open.
CERTAINTY: dict[str, tuple[str, ...]] = {
    "high": tuple(
        (
            "surely certainly clearly definitely plainly truly obviously undoubtedly evidently positively "
            "decidedly assuredly"
        ).split()
    ),
    "middle": tuple(
        (
            "maybe perhaps possibly likely probably conceivably potentially presumably arguably seemingly "
            "apparently perchance"
        ).split()
    ),
    "low": tuple(
        "hardly barely scarcely rarely seldom nowhere falsely wrongly vainly mistakenly doubtfully nominally".split()
    ),
}

# Words that stand for one thing each, sorted as FEATURES sort nouns: aspect -> name of a class -> its words.
LEXICON = {"opinion": ADJECTIVES, "deed": ACTIONS, "stance": ATTITUDES, "degree": CERTAINTY}


@dataclass(frozen=True, eq=False)  # compared and hashed by identity: `build` is cached
class World:
    """What is the case. `features[noun][feature]` is a word of FEATURES[feature]."""

    seed: int
    nouns: tuple[str, ...]
    weights: tuple[float, ...]  # how often each noun is spoken of: a mild Zipf law, so rare nouns are known less well
    features: dict[str, dict[str, str]]
    homonyms: dict[str, tuple[str, str]]  # invented word -> its two kinds

    def having(self, feature: str, value: str) -> tuple[str, ...]:
        return tuple(noun for noun in self.nouns if self.features[noun][feature] == value)


@lru_cache(maxsize=2)
def build(seed: int = SEED) -> World:
    """The world of a seed. Random(str) hashes with SHA-512, so the result does not depend on the process."""
    rng = random.Random(f"world/{seed}")
    words = invented_words(rng, NOUNS + HOMONYMS)
    nouns, homonyms = words[:NOUNS], words[NOUNS:]
    features: dict[str, dict[str, str]] = {noun: {} for noun in nouns}
    for feature, values in FEATURES.items():
        # A shuffled round-robin instead of independent draws keeps every feature balanced.
        for i, noun in enumerate(rng.sample(nouns, len(nouns))):
            features[noun][feature] = values[i % len(values)]
    kinds = FEATURES["kind"]
    return World(
        seed=seed,
        nouns=tuple(nouns),
        weights=tuple((rank + 30) ** -0.7 for rank in range(NOUNS)),
        features=features,
        homonyms={word: tuple(rng.sample(kinds, 2)) for word in homonyms},  # type: ignore[misc]
    )


def invented_words(rng: random.Random, count: int) -> list[str]:
    """Pronounceable words that start with a consonant (so the article is always "a"), none of them English."""
    onsets = "b d f g k l m n p r s t v z bl br dr fl gl kr pl sk sn tr".split()
    nuclei = "a e i o u".split()
    codas = "b k l m n p s t x ck nd rp sk".split()
    english = set(" ".join(map(str, [*FEATURES.values(), *ACTIONS.values(), NAMES])).split())
    words: dict[str, None] = {}
    while len(words) < count:
        word = "".join(map(rng.choice, (onsets, nuclei, ["l", "m", "n", "r", "v", "z", "k", "d"], nuclei, codas)))
        if word not in english:
            words[word] = None
    return list(words)
