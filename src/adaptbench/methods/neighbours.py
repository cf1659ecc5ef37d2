"""Which demonstrations are most like a prompt: cosine of TF-IDF vectors, the demonstrations being the collection.

Liu et al. 2021 (arXiv 2101.06804) use sentence embeddings; word counts need no second model, and say so.
"""

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np


def nearest(query: str, texts: Sequence[str]) -> list[int]:
    """Indices of `texts` from the most to the least similar to `query`; ties in their order."""
    documents = [Counter(words(text)) for text in texts]
    rarity = {
        word: np.log((1 + len(documents)) / (1 + sum(word in document for document in documents))) + 1
        for document in documents
        for word in document
    }
    wanted = weighted(Counter(words(query)), rarity)
    similarity = [cosine(wanted, weighted(document, rarity)) for document in documents]
    return sorted(range(len(texts)), key=lambda index: -similarity[index])


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def weighted(counts: Counter[str], rarity: dict[str, float]) -> dict[str, float]:
    return {word: count * rarity[word] for word, count in counts.items() if word in rarity}


def cosine(first: dict[str, float], second: dict[str, float]) -> float:
    product = sum(value * second.get(word, 0.0) for word, value in first.items())
    norms = np.sqrt(sum(v * v for v in first.values()) * sum(v * v for v in second.values()))
    return float(product / norms) if norms else 0.0
