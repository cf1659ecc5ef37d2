"""Ranks demonstrations by their similarity to a prompt: the cosine of TF-IDF vectors, fitted on the demonstrations.

Liu et al. 2021 (arXiv 2101.06804) use sentence embeddings; word counts need no second model.
"""

import re
from collections.abc import Sequence

import numpy as np

WORD = r"\w+"


def nearest(query: str, texts: Sequence[str]) -> list[int]:
    """Indices of `texts` from the most to the least similar to `query`; ties keep the order of `texts`."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes more than a second to import

    if not any(re.search(WORD, text) for text in texts):  # scikit-learn refuses an empty vocabulary
        return list(range(len(texts)))
    vectorizer = TfidfVectorizer(token_pattern=WORD)
    weights = vectorizer.fit_transform(texts)  # (K, V), rows of unit length
    similarity = (weights @ vectorizer.transform([query]).T).toarray()[:, 0]
    # Rounding makes equal similarities equal: sums of products depend on the order of summation in their last digits.
    return np.argsort(-similarity.round(12), kind="stable").tolist()
