"""Train the embedded base models from nothing and save them with their provenance.

    python -m experiments.pretrain                      # all, into the package
    python -m experiments.pretrain models=[micro_gpt_l]
    python -m experiments.pretrain fast=true output=/tmp/weights checkpoints=/tmp/checkpoints

and (IA)^3 vectors for any model on any multitask mixture, where `method=t_few` starts from (paper, section 3.4):

    python -m experiments.pretrain models=[ia3] recipes.ia3.start=t0_3b recipes.ia3.mixture=[boolq,sst2]

Batch i is a function of (seed, i) alone, so a run that was killed continues from its last checkpoint as if nothing had
happened. One thread: at this size more threads cost more than they give, and one makes the result reproducible.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel, T5ForConditionalGeneration

from adaptbench.config import register_schemas
from adaptbench.data.batching import collate, encode
from adaptbench.errors import InputError
from adaptbench.methods.ia3 import IA3
from adaptbench.microworld import corpus, world
from adaptbench.microworld.models import gpt_model, t5_model
from adaptbench.microworld.tokenizer import build_tokenizer, vocabulary
from adaptbench.models.backbone import Backbone, load, load_backbone
from adaptbench.models.delta import Delta
from adaptbench.preflight import bytes_of_a_run, check_output
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.losses import lm
from experiments.commandline import CONF, check_options, one_clear_line
from experiments.mixture import composed

Loss = Callable[[DictConfig, int], Tensor]  # (stage, step) -> a scalar
WORD_TABLES = ("shared", "embed_tokens", "lm_head")


@dataclass
class Trainee:
    """What a recipe trains, a model or a small module attached to a frozen one, and its loss at a step of a stage."""

    model: PreTrainedModel
    trained: nn.Module
    loss: Loss
    attached: Callable[[], AbstractContextManager[None]] = nullcontext


def new_t5(recipe: DictConfig, cfg: DictConfig) -> Trainee:
    model = t5_model(recipe.size)
    return Trainee(model, model, t5_loss(model, cfg.seed))


def new_gpt(recipe: DictConfig, cfg: DictConfig) -> Trainee:
    model = gpt_model(recipe.size)

    def loss(stage: DictConfig, step: int) -> Tensor:
        return model(**corpus.gpt_batch(world.build(), cfg.seed, step, stage.batch, stage.length, stage.mixture)).loss

    return Trainee(model, model, loss)


def continued_t5(recipe: DictConfig, cfg: DictConfig) -> Trainee:
    """The language-model adapted T5, to be trained on prompts: how T0 came to be (Sanh et al. 2022)."""
    model = T5ForConditionalGeneration.from_pretrained(finished(recipe.start, cfg), attn_implementation="eager")
    return Trainee(model, model, t5_loss(model, cfg.seed))


def ia3_vectors(recipe: DictConfig, cfg: DictConfig) -> Trainee:
    """(IA)^3 on a frozen T0, trained on the mixture T0 was trained on (paper, section 3.4)."""
    backbone = load_backbone(recipe.start, str(finished(recipe.start, cfg)), "float32", None, "cpu")
    return vectors_on(backbone, cfg.seed, t5_loss(backbone.model, cfg.seed))


def ia3_on_mixture(recipe: DictConfig, cfg: DictConfig) -> Trainee:
    """(IA)^3 on any frozen model, trained on the right answers of a mixture of data sets (paper, section 3.4)."""
    config, mixture = composed(recipe)
    backbone = load(config.model, config.device)

    def loss(stage: DictConfig, step: int) -> Tensor:
        rows = [encode(backbone, prompt) for prompt in mixture.batch(cfg.seed, step, stage.batch)]
        batch = collate(rows, backbone.pad_id).to(backbone.device)
        return lm(token_log_probabilities(backbone, batch), batch.target_mask, batch.label).mean()

    return vectors_on(backbone, cfg.seed, loss)


def vectors_on(backbone: Backbone, seed: int, loss: Loss) -> Trainee:
    """(IA)^3 on a frozen model, starting from ones."""
    delta = IA3().prepare(backbone, seeds=[seed]).delta
    assert delta is not None
    return Trainee(backbone.model, delta, loss, lambda: delta.attached(backbone.model))


def t5_loss(model: PreTrainedModel, seed: int) -> Loss:
    def loss(stage: DictConfig, step: int) -> Tensor:
        mixture = corpus.T0Mixture(stage.blanks, stage.continuation, stage.prompts)
        return model(**corpus.t0_batch(world.build(), seed, step, stage.batch, mixture)).loss

    return loss


def finished(name: str, cfg: DictConfig) -> Path:
    folder = folder_of(name, cfg)
    if not (folder / "provenance.json").exists():
        raise InputError(f"models: {folder} is not there to continue from; train {name} first")
    return folder


KINDS: dict[str, Callable[[DictConfig, DictConfig], Trainee]] = {
    "t5": new_t5,
    "continued_t5": continued_t5,
    "ia3": ia3_vectors,
    "gpt": new_gpt,
    "ia3_on_mixture": ia3_on_mixture,
}


def learning_rate(recipe: DictConfig, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to a fraction."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, total - recipe.warmup)
    low = recipe.final_lr_fraction
    return recipe.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def optimizer_of(model: nn.Module, recipe: DictConfig) -> torch.optim.Optimizer:
    """AdamW with a learning rate of its own for word embeddings: each is updated by only a few batches' words."""
    words = [p for n, p in model.named_parameters() if any(part in n for part in WORD_TABLES)]
    rest = [p for p in model.parameters() if all(p is not w for w in words)]
    groups = [{"params": words, "factor": recipe.embedding_lr_factor}, {"params": rest, "factor": 1.0}]
    groups = [group for group in groups if group["params"]]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True)


def train(name: str, cfg: DictConfig) -> tuple[Trainee, dict[str, Any]]:
    """All stages of a model's recipe, from its last checkpoint if there is one."""
    recipe = cfg.recipes[name]
    steps = [stage.fast_steps if cfg.fast else stage.steps for stage in recipe.stages]
    schedule = [stage for stage, count in zip(recipe.stages, steps, strict=True) for _ in range(count)]
    torch.manual_seed(cfg.seed)
    trainee = KINDS[recipe.kind](recipe, cfg)
    model, trained = trainee.model, trainee.trained
    optimizer = optimizer_of(trained, recipe)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
    checkpoint = unfinished(name, cfg)
    words = hashlib.sha256(" ".join(vocabulary()).encode()).hexdigest()
    question = {"recipe": OmegaConf.to_container(recipe), "seed": cfg.seed, "fast": cfg.fast, "words": words}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["question"] == question:
            trained.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            state = saved["state"]
    bar = tqdm(
        range(state["step"], len(schedule)), initial=state["step"], total=len(schedule), desc=name, mininterval=5
    )
    started, before = time.perf_counter(), state["seconds"]
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(recipe, step, len(schedule))
        with trainee.attached(), torch.autocast(model.device.type, torch.bfloat16, enabled=cfg.autocast):
            loss = trainee.loss(schedule[step], step)
        loss.backward()
        nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state["losses"] = [*state["losses"][-199:], loss.item()]
        state["step"], state["seconds"] = step + 1, before + time.perf_counter() - started
        if step % 50 == 0:
            bar.set_postfix(loss=f"{sum(state['losses'][-50:]) / len(state['losses'][-50:]):.3f}")
        if (step + 1) % cfg.checkpoint_every == 0:
            tensors = {"model": trained.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, {"question": question, "state": state, **tensors})
    if trained is model:
        model.float()
    model.eval()
    return trainee, state


def folder_of(name: str, cfg: DictConfig) -> Path:
    """Where the finished model goes."""
    return Path(cfg.recipes[name].output or Path(cfg.output) / name)


def unfinished(name: str, cfg: DictConfig) -> Path:
    """Where its training is kept until it is finished."""
    return Path(cfg.checkpoints) / f"{'_'.join(dict.fromkeys([name, folder_of(name, cfg).name]))}.pt"


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write aside, then rename: a kill while writing leaves the previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def ship(name: str, trainee: Trainee, state: dict[str, Any], cfg: DictConfig) -> Path:
    """The folder of a model (in Hugging Face format) or adapter, with a provenance that says how it came to be."""
    folder = folder_of(name, cfg)
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(trainee.trained, Delta):
        trainee.trained.save(folder, run=0)
    else:
        trainee.model.save_pretrained(folder)
        build_tokenizer(decoder_only=not trainee.model.config.is_encoder_decoder).save_pretrained(folder)
    (weights,) = folder.glob("*.safetensors")
    weights.chmod(0o644)  # the library writes it for its owner alone
    provenance = {
        "model": name,
        "command": f"python -m experiments.pretrain models=[{name}]" + (" fast=true" if cfg.fast else ""),
        "recipe": OmegaConf.to_container(cfg.recipes[name]),
        "seed": cfg.seed,
        "world_seed": world.SEED,
        "autocast_bfloat16": cfg.autocast,
        "parameters": sum(p.numel() for p in trainee.trained.parameters()),
        "steps": state["step"],
        "final_loss": round(sum(state["losses"]) / len(state["losses"]), 4),
        "final_loss_is": f"mean over the last {len(state['losses'])} steps",
        "seconds": round(state["seconds"], 1),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    return folder


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def pretrain(cfg: DictConfig) -> None:
    torch.set_num_threads(1)
    unknown = [name for name in cfg.models if name not in cfg.recipes]
    if unknown:
        raise InputError(f"models={unknown}: expected some of {list(cfg.recipes)}")
    _check(cfg)
    for name in cfg.models:
        trainee, state = train(name, cfg)
        folder = ship(name, trainee, state, cfg)
        unfinished(name, cfg).unlink(missing_ok=True)
        print(f"{name}: {state['step']} steps, {state['seconds']:.0f} s, saved to {folder}")


def _check(cfg: DictConfig) -> None:
    """Numbers are none below zero, and what is trained can be kept: known before hours are spent on it."""
    default: Any = OmegaConf.load(Path(CONF) / "pretrain.yaml")
    for name, value in numbers(OmegaConf.to_container(cfg, resolve=True)):
        if value < 0:
            raise InputError(f"{name}={value}: expected at least 0")
    if cfg.checkpoint_every < 1:
        raise InputError(f"checkpoint_every={cfg.checkpoint_every}: expected at least 1")
    shipped = [name for name in cfg.models if not cfg.recipes[name].output]
    if shipped and cfg.output == default.output and not Path(cfg.output).is_dir():
        raise InputError(f"output={cfg.output!r}: not here; say where {', '.join(shipped)} should go: output=<folder>")
    for position, name in enumerate(cfg.models):
        check_output(folder_of(name, cfg), f"output of {name}")
        if position:  # the first one is about to find out by itself
            _check_start(name, cfg, cfg.models[:position])
    check_output(Path(cfg.checkpoints), "checkpoints")


def numbers(tree: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a nested configuration with its dotted name."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from numbers(value, f"{name}.{key}".lstrip("."))
    if isinstance(tree, int | float):
        yield name, tree


def _check_start(name: str, cfg: DictConfig, before: list[str]) -> None:
    """What a model continues from is there, or will be once those before it are trained."""
    recipe = cfg.recipes[name]
    if recipe.kind == "ia3_on_mixture":
        config, _ = composed(recipe)
        bytes_of_a_run(config)
    elif recipe.start and recipe.start not in before:
        finished(recipe.start, cfg)


def main() -> None:
    register_schemas()
    with one_clear_line(), initialize_config_dir(CONF, version_base="1.3"):
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(f"{__doc__}\nEverything that can be set, with its defaults:\n")
            print((Path(CONF) / "pretrain.yaml").read_text())
            return
        check_options(sys.argv[1:])
        pretrain(compose("pretrain", overrides=sys.argv[1:]))


if __name__ == "__main__":
    main()
