"""Train the embedded base models from nothing and save them with their provenance.

    python -m experiments.pretrain                      # all, into the package
    python -m experiments.pretrain models=[micro_gpt_l]
    python -m experiments.pretrain fast=true output=/tmp/weights checkpoints=/tmp/checkpoints

(IA)^3 vectors for any model on any multitask mixture, where `method=t_few` starts from (paper, section 3.4):

    python -m experiments.pretrain models=[ia3] recipes.ia3.start=t0_3b recipes.ia3.mixture=[boolq,sst2]

and any encoder or decoder further on unlabelled text, a task's own training rows or a domain's (arXiv 2004.10964):

    python -m experiments.pretrain models=[tapt] recipes.tapt.start=minilm_l6 recipes.tapt.corpus=domain_chemprot
    python -m experiments.pretrain models=[dapt] recipes.dapt.start=minilm_l6 recipes.dapt.files=[domain.txt]

A task's corpus is without its evaluation rows, and without the development rows of the seeds and shots that
`recipes.tapt.overrides` name (conf/config.yaml's, unless they do); later runs with others are refused.

Batch i is a function of (seed, i) alone, so a run that was killed continues from its last checkpoint as if nothing had
happened. The embedded models take one thread: at their size more cost more than they give, and one makes the result
reproducible.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
import transformers
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from adaptbench.config import register_schemas
from adaptbench.data.batching import collate, encode
from adaptbench.errors import InputError
from adaptbench.microworld import world
from adaptbench.microworld.tokenizer import vocabulary
from adaptbench.models.backbone import load
from adaptbench.preflight import bytes_of_a_run, check_output
from adaptbench.pretraining import embedded, loop
from adaptbench.pretraining.continued import check_settings, check_start, continue_pretraining
from adaptbench.pretraining.corpora import corpus_names, read_corpus
from adaptbench.pretraining.loop import Checkpoint, State, Trainee
from adaptbench.pretraining.output import check_replaceable, replace_folder
from adaptbench.pretraining.provenance import DIGESTS, FILE
from adaptbench.provenance import processor
from adaptbench.schema import PretrainRecipe, PretrainStage, UnlabelledText
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.losses import lm
from experiments.commandline import CONF, check_options, one_clear_line
from experiments.mixture import composed, composed_corpus


def ia3_on_mixture(name: str, cfg: DictConfig) -> Trainee:
    """(IA)^3 on any frozen model, trained on the right answers of a mixture of data sets (paper, section 3.4)."""
    config, mixture = composed(cfg.recipes[name])
    backbone = load(config.model, config.device)

    def loss(stage: PretrainStage, step: int) -> Tensor:
        rows = [encode(backbone, prompt) for prompt in mixture.batch(cfg.seed, step, stage.batch)]
        batch = collate(rows, backbone.pad_id).to(backbone.device)
        return lm(token_log_probabilities(backbone, batch), batch.target_mask, batch.label).mean()

    return embedded.vectors_on(backbone, recipe_of(name, cfg), cfg.seed, cfg.fast, loss)


def continued(name: str, cfg: DictConfig) -> Trainee:
    """Any encoder or decoder, trained further on unlabelled text."""
    cells = composed_corpus(cfg.recipes[name])
    return continue_pretraining(name, recipe_of(name, cfg), cells, cfg.seed, cfg.fast, cfg.autocast)


KINDS: dict[str, Callable[[str, DictConfig], Trainee]] = {
    "t5": lambda name, cfg: embedded.new_t5(recipe_of(name, cfg), cfg.seed, cfg.fast),
    "gpt": lambda name, cfg: embedded.new_gpt(recipe_of(name, cfg), cfg.seed, cfg.fast),
    "continued_t5": lambda name, cfg: embedded.continued_t5(recipe_of(name, cfg), cfg.seed, cfg.fast, start(name, cfg)),
    "ia3": lambda name, cfg: embedded.ia3_vectors(recipe_of(name, cfg), cfg.seed, cfg.fast, start(name, cfg)),
    "ia3_on_mixture": ia3_on_mixture,
    "continued": continued,
}
ANYWHERE = ("ia3_on_mixture", "continued")  # kinds that have nothing to do with the embedded world


def recipe_of(name: str, cfg: DictConfig) -> PretrainRecipe:
    recipe = OmegaConf.to_object(cfg.recipes[name])
    assert isinstance(recipe, PretrainRecipe)
    return recipe


def start(name: str, cfg: DictConfig) -> Path:
    return finished(cfg.recipes[name].start, cfg)


def finished(name: str, cfg: DictConfig) -> Path:
    folder = folder_of(name, cfg)
    if not (folder / FILE).exists():
        raise InputError(f"models: {folder} is not there to continue from; train {name} first")
    return folder


def train(name: str, cfg: DictConfig) -> tuple[Trainee, State]:
    """What a recipe trains, trained: from its last checkpoint if there is one."""
    torch.manual_seed(cfg.seed)
    trainee = KINDS[cfg.recipes[name].kind](name, cfg)
    words = hashlib.sha256(" ".join(vocabulary()).encode()).hexdigest()
    question = {
        "recipe": OmegaConf.to_container(cfg.recipes[name]),
        "seed": cfg.seed,
        "fast": cfg.fast,
        "autocast": cfg.autocast,
        "words": words,
        **trainee.identity,
    }
    checkpoint = Checkpoint(unfinished(name, cfg), cfg.checkpoint_minutes, question)
    return trainee, loop.train(name, trainee, recipe_of(name, cfg), checkpoint, cfg.autocast)


def folder_of(name: str, cfg: DictConfig) -> Path:
    """Where the finished model goes."""
    recipe = cfg.recipes[name]
    if recipe.kind == "continued" and not recipe.output:
        return Path(cfg.pretrained) / "_".join([recipe.start, name, *corpus_names(recipe.corpus)])
    return Path(recipe.output or Path(cfg.output) / name)


def unfinished(name: str, cfg: DictConfig) -> Path:
    """Where its training is kept until it is finished."""
    return Path(cfg.checkpoints) / f"{'_'.join(dict.fromkeys([name, folder_of(name, cfg).name]))}.pt"


def ship(name: str, trainee: Trainee, state: State, cfg: DictConfig, settings: list[str]) -> dict[str, Any]:
    """Write the folder of a model (in Hugging Face format) or adapter, with a provenance that says how it came to be.

    Args:
        settings: those that the configuration was composed with.

    Returns:
        The provenance.
    """
    provenance = provenance_of(name, trainee, state, cfg, settings)

    def write(folder: Path) -> None:
        trainee.save(folder)
        (weights,) = folder.glob("*.safetensors")
        weights.chmod(0o644)  # the library writes it for its owner alone
        if "bill" in provenance:
            files = [file for file in folder.iterdir() if file.name != DIGESTS]
            provenance["bill"]["storage_bytes"] = sum(file.stat().st_size for file in files)
        with open(weights, "rb") as opened:
            provenance["sha256"] = hashlib.file_digest(opened, "sha256").hexdigest()
        (folder / FILE).write_text(json.dumps(provenance, indent=2) + "\n")

    if kept := replace_folder(folder_of(name, cfg), write):
        print(f"{name}: the earlier folder held other files, too; it is now {kept}")
    return provenance


def provenance_of(name: str, trainee: Trainee, state: State, cfg: DictConfig, settings: list[str]) -> dict[str, Any]:
    """How a model came to be: all that can be said before its files are written."""
    recipe: Any = OmegaConf.to_container(cfg.recipes[name], resolve=True)
    others = {field.name for field in fields(UnlabelledText)} if recipe["kind"] != "continued" else ()
    return {
        "model": name,
        "command": command(name, cfg, settings),
        "recipe": {what: how for what, how in recipe.items() if what not in others and how not in (None, [], {})},
        "seed": cfg.seed,
        **({} if cfg.recipes[name].kind in ANYWHERE else {"world_seed": world.SEED}),
        "autocast_bfloat16": cfg.autocast,
        "parameters": sum(p.numel() for p in trainee.trained.parameters()),
        "steps": state["step"],
        "final_loss": round(sum(state["losses"]) / len(state["losses"]), 4),
        "final_loss_is": f"mean over the last {len(state['losses'])} steps",
        "seconds": round(state["seconds"], 1),
        **trainee.facts(state),
        "hardware": {"cpu": processor(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }


def command(name: str, cfg: DictConfig, settings: list[str]) -> str:
    """What makes this model again: all settings but those of other models, and of what does not change the result."""
    others = {
        "models",
        "checkpoints",
        "checkpoint_minutes",
        *(f"recipes.{other}" for other in cfg.recipes if other != name),
    }

    def matters(setting: str) -> bool:
        path = setting.lstrip("+~").partition("=")[0].split(".")
        return others.isdisjoint({path[0], ".".join(path[:2])})

    own = [shlex.quote(setting) for setting in settings if matters(setting)]
    return " ".join(["python -m experiments.pretrain", f"models=[{name}]", *own])


def pretrain(cfg: DictConfig, settings: list[str]) -> None:
    """Train the models of a configuration, one after another.

    Args:
        settings: those it was composed with, for the provenance.
    """
    threads = torch.get_num_threads()
    unknown = [name for name in cfg.models if name not in cfg.recipes]
    if unknown:
        raise InputError(f"models={unknown}: expected some of {list(cfg.recipes)}")
    _check(cfg)
    for name in cfg.models:
        torch.set_num_threads(threads if cfg.recipes[name].kind == "continued" else 1)
        trainee, state = train(name, cfg)
        provenance = ship(name, trainee, state, cfg, settings)
        unfinished(name, cfg).unlink(missing_ok=True)
        print(f"{name}: {state['step']} steps, {state['seconds']:.0f} s, saved to {folder_of(name, cfg)}")
        if corpus := provenance.get("corpus"):
            print(f"{name}: read {corpus['texts']:,} texts, left out {corpus['left_out']:,} as held-out rows of runs")


def _check(cfg: DictConfig) -> None:
    """Numbers are none below zero, and what is trained can be kept: known before hours are spent on it."""
    default: Any = OmegaConf.load(Path(CONF) / "pretrain.yaml")
    for name, value in numbers(OmegaConf.to_container(cfg, resolve=True)):
        if value < 0:
            raise InputError(f"{name}={value}: expected at least 0")
    for name in cfg.models:
        if cfg.recipes[name].kind == "continued":
            check_settings(name, recipe_of(name, cfg))
    shipped = [name for name in cfg.models if not cfg.recipes[name].output and cfg.recipes[name].kind not in ANYWHERE]
    if shipped and cfg.output == default.output and not Path(cfg.output).is_dir():
        raise InputError(f"output={cfg.output!r}: not here; say where {', '.join(shipped)} should go: output=<folder>")
    for position, name in enumerate(cfg.models):
        folder, setting = folder_of(name, cfg), f"output of {name}"
        check_output(folder, setting)
        check_replaceable(folder, setting)
        check_output(folder.resolve().parent, setting)
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
    """What a model continues from is there, or will be once those before it are trained; and so is what it reads."""
    recipe = cfg.recipes[name]
    if recipe.kind == "ia3_on_mixture":
        config, _ = composed(recipe)
        bytes_of_a_run(config)
    elif recipe.kind == "continued":
        cells = composed_corpus(recipe)
        read_corpus(recipe_of(name, cfg), cells)
        if Path(cells.start.model.path) not in [folder_of(earlier, cfg) for earlier in before]:
            check_start(name, recipe_of(name, cfg), cells.start)
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
        pretrain(compose("pretrain", overrides=sys.argv[1:]), sys.argv[1:])


if __name__ == "__main__":
    main()
