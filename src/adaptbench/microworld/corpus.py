"""The two pre-training streams as batches of tensors. Batch i of a seed is the same whoever asks for it, and when."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from adaptbench.microworld import episodes, prompted, stories
from adaptbench.microworld.tokenizer import EOS, PAD, SENTINELS, encode, vocabulary
from adaptbench.microworld.world import World

IGNORE = -100


@dataclass(frozen=True)
class T0Mixture:
    """Weights of the encoder-decoder's stream: fill in blanks, continue a text, answer a prompt."""

    blanks: float = 0.25
    continuation: float = 0.20
    prompts: float = 0.55


def t0_batch(world: World, seed: int, index: int, size: int, mixture: T0Mixture) -> dict[str, Tensor]:
    """`input_ids`, `attention_mask` (B, S) and `labels` (B, T)."""
    rng = random.Random(f"t0/{seed}/{index}")
    pairs = [t0_example(world, rng, mixture) for _ in range(size)]
    inputs = padded([source for source, _ in pairs], PAD)
    return {
        "input_ids": inputs,
        "attention_mask": (inputs != PAD).long(),
        "labels": padded([target for _, target in pairs], IGNORE),
    }


def t0_example(world: World, rng: random.Random, mixture: T0Mixture) -> tuple[list[int], list[int]]:
    kind = rng.choices(range(3), (mixture.blanks, mixture.continuation, mixture.prompts))[0]
    if kind == 2:
        question, answer = prompted.example(world, rng)
        return [*encode(question), EOS], [*encode(answer), EOS]
    words = encode(stories.story(world, rng, rng.choice((1, 1, 2))))
    if kind == 0:
        return blanked(words, rng)
    cut = max(1, len(words) - rng.choice((1, 1, 1, 2, 2, 3)))
    return [*words[:cut], EOS], [*words[cut:], EOS]


def blanked(words: list[int], rng: random.Random) -> tuple[list[int], list[int]]:
    """T5's span corruption: each span becomes a sentinel, the target spells the spans out.

    At most two spans of at most two words: longer targets would make the decoder's padding the largest cost of a batch.
    """
    vocab = vocabulary()
    source, target = [], []
    position, used = 0, 0
    while position < len(words):
        if rng.random() < 0.15 and used < 2:
            span = rng.choice((1, 1, 2))
            sentinel = vocab[SENTINELS[used]]
            source.append(sentinel)
            target += [sentinel, *words[position : position + span]]
            used, position = used + 1, position + span
        else:
            source.append(words[position])
            position += 1
    if not used:
        return [*words[:-1], vocab[SENTINELS[0]], EOS], [vocab[SENTINELS[0]], words[-1], EOS]
    return [*source, EOS], [*target, EOS]


def gpt_batch(
    world: World, seed: int, index: int, size: int, length: int, mixture: Mapping[str, float]
) -> dict[str, Tensor]:
    """`input_ids` and `labels` (B, S); labels are IGNORE where predicting the token is no part of the loss."""
    rng = random.Random(f"gpt/{seed}/{index}")
    drawn = [episodes.draw(world, rng, length, mixture) for _ in range(size)]
    ids = torch.tensor([tokens for tokens, _ in drawn])
    loss = torch.tensor([mask for _, mask in drawn])
    return {"input_ids": ids, "labels": ids.masked_fill(~loss, IGNORE)}


def padded(rows: list[list[int]], fill: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [fill] * (longest - len(row)) for row in rows])
