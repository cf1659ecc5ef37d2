"""From choice log-likelihoods to predictions and a score."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from adaptbench.data.templates import UNLABELLED, Prompt

LENGTHS = {"token": "tokens", "character": "characters", "byte": "bytes"}


@dataclass(frozen=True)
class ChoiceScores:
    """What the model said of every choice of one prompt."""

    prompt: Prompt
    log_likelihoods: tuple[float, ...]  # of each choice, summed over its tokens
    tokens: tuple[int, ...]


def table(scores: list[ChoiceScores]) -> pd.DataFrame:
    """One row per item and choice: enough to recompute any normalisation."""
    return pd.DataFrame(
        [
            {
                "uid": score.prompt.uid,
                "template": score.prompt.template,
                "label": score.prompt.label,
                "choice": choice,
                "log_likelihood": log_likelihood,
                "tokens": tokens,
                "characters": len(text),
                "bytes": len(text.encode()),
            }
            for score in scores
            for choice, (text, log_likelihood, tokens) in enumerate(
                zip(score.prompt.choices, score.log_likelihoods, score.tokens, strict=True)
            )
        ]
    )


def predict(score: ChoiceScores, norm: str = "token") -> int:
    """The choice of highest log-likelihood, divided by its length in tokens, characters, bytes or by nothing."""
    if norm == "none":
        lengths: list[int] = [1] * len(score.tokens)
    elif norm == "token":
        lengths = list(score.tokens)
    else:
        texts = [choice if norm == "character" else choice.encode() for choice in score.prompt.choices]
        lengths = [len(text) for text in texts]
    return int(np.argmax([value / length for value, length in zip(score.log_likelihoods, lengths, strict=True)]))


def predicted(scores: pd.DataFrame, norm: str = "token") -> pd.Series:
    """From a table of scores, uid -> predicted choice, in the table's order. Templates vote with their mean score."""
    lengths = scores[LENGTHS[norm]] if norm in LENGTHS else 1
    per_choice = (scores.log_likelihood / lengths).groupby([scores.uid, scores.choice], sort=False).mean().unstack()
    return per_choice.loc[scores.uid.unique()].idxmax(axis=1)


def accuracy(scores: list[ChoiceScores], norm: str = "token") -> float | None:
    """Share of items whose predicted choice is the right one; None where nobody knows it.

    An item scored under several templates counts by its share of right answers.
    """
    if any(score.prompt.label == UNLABELLED for score in scores):
        return None
    shares: dict[str, list[bool]] = {}
    for score in scores:
        shares.setdefault(score.prompt.uid, []).append(predict(score, norm) == score.prompt.label)
    return float(np.mean([np.mean(share) for share in shares.values()]))


def by_template(scores: list[ChoiceScores], norm: str = "token") -> dict[str, dict[str, float | int | None]]:
    """Template -> its score and number of items, in order of first use: how much the wording matters."""
    groups: dict[str, list[ChoiceScores]] = {}
    for score in scores:
        groups.setdefault(score.prompt.template, []).append(score)
    return {name: {"score": accuracy(group, norm), "n": len(group)} for name, group in groups.items()}


def items(scores: list[ChoiceScores]) -> int:
    """Evaluated rows, however many templates each was phrased by."""
    return len({score.prompt.uid for score in scores})


def not_finite(scores: list[ChoiceScores]) -> str | None:
    """Why these scores cannot be trusted, if so: an argmax over NaN would quietly answer with the first choice."""
    broken = [score.prompt.uid for score in scores if not np.isfinite(score.log_likelihoods).all()]
    return f"log-likelihoods are not finite for {len(broken)} items, first {broken[0]!r}" if broken else None


def chance(prompts: list[Prompt]) -> float:
    """Expected accuracy of guessing uniformly among each item's choices."""
    return float(np.mean([1 / len(prompt.choices) for prompt in prompts]))
