"""The pre-training loop. What a step reads is a function of its number and a seed alone, so a training that was killed
continues from its last checkpoint as if nothing had happened."""

import math
import os
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from adaptbench.errors import InputError, one_line
from adaptbench.pretraining.output import sync
from adaptbench.schema import PretrainRecipe

WORD_TABLES = ("shared", "embed_tokens", "lm_head")
BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
LOSSES_KEPT = 200  # of the last steps
SAVED = ("state", "model", "optimizer")
State = dict[str, Any]  # step, seconds, losses, work: what a checkpoint holds besides tensors


@dataclass(frozen=True)
class Pass:
    """A part of a step that is read at once."""

    loss: Callable[[], Tensor]
    """Its share of the step's loss: those of all its passes add up to it."""
    work: Mapping[Hashable, int] = field(default_factory=dict)
    """What is counted of it."""


@dataclass
class Trainee:
    """What a recipe trains, a model or a small module attached to a frozen one, and what it reads at every step."""

    model: PreTrainedModel
    trained: nn.Module
    steps: int
    passes: Callable[[int], Sequence[Pass]]
    """Step -> its passes."""
    save: Callable[[Path], object]
    """Writes the files of what was trained into a folder."""
    attached: Callable[[], AbstractContextManager[None]] = nullcontext
    identity: Mapping[str, Any] = field(default_factory=dict)
    """What the result depends on besides its recipe: an unfinished training of another one is not continued."""
    facts: Callable[[State], dict[str, Any]] = lambda state: {}
    """What its provenance says besides what every recipe's does."""


@dataclass(frozen=True)
class Checkpoint:
    """The file of an unfinished training."""

    path: Path
    minutes: float
    """How much work a kill may cost."""
    question: Mapping[str, Any]

    def load(self) -> dict[str, Any] | None:
        """What was saved, if it is of the same training.

        Raises:
            InputError: the file cannot be read.
        """
        if not self.path.exists():
            return None
        try:
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            if lacking := [name for name in ("question", *SAVED) if name not in saved]:
                raise ValueError(f"nothing of {', '.join(lacking)} in it")
        except Exception as error:  # whatever PyTorch makes of a file that was cut short
            raise InputError(f"{self.path}: no checkpoint that can be read ({one_line(error)}); remove it") from None
        return saved if saved["question"] == self.question else None

    def save(self, content: Mapping[str, Any]) -> None:
        """Write aside, then rename: a kill while writing leaves the previous checkpoint, and so does a power cut."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_suffix(".partial")
        torch.save({"question": self.question, **content}, partial)
        sync(partial)
        os.replace(partial, self.path)
        sync(self.path.parent)


def train(name: str, trainee: Trainee, recipe: PretrainRecipe, checkpoint: Checkpoint, autocast: bool) -> State:
    """All steps of a recipe, from its last checkpoint if there is one.

    Args:
        name: the recipe's, for messages.
        autocast: compute in bfloat16 where it is safe; weights stay as they are.

    Raises:
        InputError: the loss is no longer finite.
    """
    model, trained = trainee.model, trainee.trained
    optimizer = optimizer_of(trained, recipe)
    state: State = {"step": 0, "seconds": 0.0, "losses": [], "work": {}}
    if (saved := checkpoint.load()) is not None:
        trained.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    bar = tqdm(
        range(state["step"], trainee.steps), initial=state["step"], total=trainee.steps, desc=name, mininterval=5
    )
    started, before = time.perf_counter(), state["seconds"]
    kept_at = started
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(recipe, step, trainee.steps)
        loss = accumulate(trainee, step, state["work"], autocast)
        if not math.isfinite(loss):
            raise InputError(
                f"recipes.{name}.lr={recipe.lr}: the loss is {loss} at step {step + 1}, expected a lower rate"
            )
        nn.utils.clip_grad_norm_(trained.parameters(), CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        state["losses"] = [*state["losses"][1 - LOSSES_KEPT :], loss]
        state["step"], state["seconds"] = step + 1, before + time.perf_counter() - started
        if step % 50 == 0:
            bar.set_postfix(loss=f"{sum(state['losses'][-50:]) / len(state['losses'][-50:]):.3f}")
        done = state["step"] == trainee.steps  # writing the model may fail, and must not cost its training
        if done or time.perf_counter() - kept_at >= 60 * checkpoint.minutes:
            tensors = {"model": trained.state_dict(), "optimizer": optimizer.state_dict()}
            checkpoint.save({"state": state, **tensors})
            kept_at = time.perf_counter()
    if trained is model:
        model.float()
    model.eval()
    return state


def accumulate(trainee: Trainee, step: int, work: dict[Hashable, int], autocast: bool) -> float:
    """Gradients of one step, pass by pass; returns its loss, and adds what its passes count to `work`."""
    total = 0.0
    for part in trainee.passes(step):
        with trainee.attached(), torch.autocast(trainee.model.device.type, torch.bfloat16, enabled=autocast):
            loss = part.loss()
        loss.backward()
        total += loss.item()
        for what, count in part.work.items():
            work[what] = work.get(what, 0) + count
    return total


def learning_rate(recipe: PretrainRecipe, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine or a straight line down to a fraction."""
    warmup = recipe.warmup if recipe.warmup_fraction is None else int(recipe.warmup_fraction * total)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    left = 1 - progress if recipe.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
    low = recipe.final_lr_fraction
    return recipe.lr * (low + (1 - low) * left)


def optimizer_of(model: nn.Module, recipe: PretrainRecipe) -> torch.optim.Optimizer:
    """AdamW with a learning rate of its own for word embeddings: each is updated by only a few batches' words.

    Matrices decay; biases and norms do not.
    """
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            words = any(part in name for part in WORD_TABLES)
            found.setdefault((words, parameter.ndim > 1), []).append(parameter)
    groups = [
        {
            "params": parameters,
            "factor": recipe.embedding_lr_factor if words else 1.0,
            "weight_decay": recipe.weight_decay if matrices else 0.0,
        }
        for (words, matrices), parameters in sorted(found.items(), reverse=True)
    ]
    return torch.optim.AdamW(groups, betas=BETAS, eps=recipe.adam_epsilon, fused=True)
