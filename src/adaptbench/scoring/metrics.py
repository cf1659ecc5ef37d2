"""From choice log-likelihoods to predictions and a score."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from adaptbench.data.templates import Prompt

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


def accuracy(scores: list[ChoiceScores], norm: str = "token") -> float:
    """Share of items whose predicted choice is the right one."""
    return float(np.mean([predict(score, norm) == score.prompt.label for score in scores]))


def not_finite(scores: list[ChoiceScores]) -> str | None:
    """Why these scores cannot be trusted, if so: an argmax over NaN would quietly answer with the first choice."""
    broken = [score.prompt.uid for score in scores if not np.isfinite(score.log_likelihoods).all()]
    return f"log-likelihoods are not finite for {len(broken)} items, first {broken[0]!r}" if broken else None


def chance(prompts: list[Prompt]) -> float:
    """Expected accuracy of guessing uniformly among each item's choices."""
    return float(np.mean([1 / len(prompt.choices) for prompt in prompts]))
