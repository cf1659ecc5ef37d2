"""From a composed configuration to a checked one, and to the id of each of its runs (the schema: `schema.py`)."""

import hashlib
import json
import math
from dataclasses import asdict, replace
from typing import Any

import torch
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adaptbench.data.labels import label_mapping, shown_names
from adaptbench.errors import InputError
from adaptbench.methods import METHODS, Method
from adaptbench.methods.base import PeftMethod, TrainedMethod
from adaptbench.metrics import get, metrics_for
from adaptbench.metrics.normalisation import NORMS
from adaptbench.models.backbone import pick_device
from adaptbench.models.cpu_speed import fast_dtype
from adaptbench.models.identity import content_id
from adaptbench.models.paths import resolve_path, stand_in
from adaptbench.schema import (
    DTYPES,
    LOSSES,
    Config,
    DatasetConfig,
    ModelConfig,
    PretrainConfig,
    RecipeConfig,
    TrackingConfig,
)
from adaptbench.tasks import TaskType, task_type


def register_schemas() -> None:
    """Tell Hydra the schemas, so that every override is checked while composing."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="schema_pretrain", node=PretrainConfig)
    store.store(group="model", name="schema_model", node=ModelConfig)
    store.store(group="dataset", name="schema_dataset", node=DatasetConfig)
    store.store(group="recipe", name="schema_recipe", node=RecipeConfig)
    store.store(group="tracking", name="schema_tracking", node=TrackingConfig)
    for name, method in METHODS.items():
        schema = OmegaConf.structured(method)
        OmegaConf.set_readonly(schema, None)  # frozen in the program, open while it is being composed
        store.store(group="method", name=f"schema_{name}", node=schema)


def resolve(composed: DictConfig) -> Config:
    """The composed configuration as dataclasses, checked as far as possible without reading any file.

    Raises:
        InputError: names the field, its value and what was expected.
    """
    return check(as_config(composed))


def as_config(composed: DictConfig) -> Config:
    """The composed configuration as dataclasses, of the right types and no more.

    Raises:
        InputError: a value is missing, or a reference leads nowhere.
    """
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise InputError(" ".join(str(error).split())) from error
    assert isinstance(config, Config)
    return config


def check(config: Config) -> Config:
    """The configuration with names resolved that depend on each other, once all its values are such as can be.

    Raises:
        InputError: names the field, its value and what was expected.
    """
    if not isinstance(config.method, Method):
        raise InputError(f"method={config.method!r}: expected one of {', '.join(sorted(METHODS))}")
    config.dataset.labels = label_mapping(config.dataset.labels)
    _check(config)
    if config.model.dtype == "auto":
        config.model.dtype = fast_dtype(torch.device(pick_device(config.device)))
    if installed := stand_in(config.model.local):
        config.model.path, config.model.revision = installed, None
    task = task_type(config.dataset)
    _fit_metric(config, task)
    config.method.check()
    if isinstance(config.method, TrainedMethod):
        config.method.check_selection()
    if isinstance(config.method, PeftMethod):
        config.method.check_budget()
    if not task.demonstrates and not config.method.trains:
        raise InputError(
            f"method={config.method.name}: dataset.task={task.kind} is answered by a head that has to be trained, "
            "expected a method that trains"
        )
    if config.method.heads_alone and not task.bare:
        raise InputError(f"method={config.method.name}: dataset.task={task.kind} has no head to train")
    if not task.demonstrates and config.method.plan(1).demonstrations:
        raise InputError(
            f"method={config.method.name}: dataset.task={task.kind} is answered by a head, and reads no demonstrations"
        )
    _fit_losses(config, task)
    _fit_training(config, task)
    return config


def _fit_metric(config: Config, task: TaskType) -> None:
    """The data set's own metric, which must judge the task's answers, or their first."""
    if config.dataset.metric is None:
        config.dataset.metric = metrics_for(task.answers)[0].name
    elif get(config.dataset.metric).answers != task.answers:
        _expect("dataset.metric", config.dataset.metric, tuple(metric.name for metric in metrics_for(task.answers)))


def _fit_losses(config: Config, task: TaskType) -> None:
    """The losses of recipe and method that the task can be trained by and the data set does not leave out."""
    for loss in config.dataset.without_losses:
        _expect("dataset.without_losses", loss, LOSSES)

    def fit(names: list[str]) -> list[str]:
        kept = [name for name in names if name in (task.losses or names)]
        if not kept:
            raise InputError(f"recipe.losses={names}: dataset.task={task.kind} is trained by {', '.join(task.losses)}")
        kept = [name for name in kept if name not in config.dataset.without_losses]
        if not kept:
            left_out = config.dataset.without_losses
            raise InputError(f"dataset.without_losses={left_out}: leaves the recipe without a loss")
        return kept

    config.recipe.losses = fit(config.recipe.losses)
    if (own := getattr(config.method, "losses", None)) is not None:
        config.method = replace(config.method, losses=fit(own))  # type: ignore[call-arg]


def _fit_training(config: Config, task: TaskType) -> None:
    """What a recipe asks of the task and of the data set's rows."""
    recipe, development = config.recipe, config.dataset.development
    if recipe.label_smoothing and (not task.smooths or task.answers == "number"):
        raise InputError(f"recipe.label_smoothing={recipe.label_smoothing}: dataset.task={task.kind} has no such loss")
    if development is not None and config.method.trains and config.method.plan(1).demonstrations:
        raise InputError(
            f"dataset.development={development}: method={config.method.name} trains on demonstrations, and chooses no "
            "state by rows without (dataset.development=null)"
        )
    if development is not None and not (isinstance(development, str) or _is_count(development)):
        raise InputError(f"dataset.development={development!r}: expected at least 1, a split, or null")


def _is_count(value: Any) -> bool:
    """A whole number of at least one, which OmegaConf cannot tell from other values where texts are allowed, too."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _check_ranges(config: Config) -> None:
    recipe = config.recipe
    for name, value, least, below in (
        ("label_smoothing", recipe.label_smoothing, 0.0, 1.0),
        ("weight_decay", recipe.weight_decay, 0.0, math.inf),
    ):
        if not least <= value < below:
            upper = f" and less than {below:g}" if below < math.inf else ""
            raise InputError(f"recipe.{name}={value}: expected at least {least:g}{upper}")
    for name, positive in (("epochs", recipe.epochs), ("evaluations", recipe.evaluations)):
        if positive is not None and not 0 < positive < math.inf:
            raise InputError(f"recipe.{name}={positive}: expected more than 0")
    if recipe.weight_decay and recipe.optimizer != "adamw":
        raise InputError(f"recipe.weight_decay={recipe.weight_decay}: only recipe.optimizer=adamw has one")


def _check(config: Config) -> None:
    _check_ranges(config)
    _expect("norm", config.norm, NORMS)
    _expect("model.dtype", config.model.dtype, DTYPES)
    _expect("model.overlong", config.model.overlong, ("refuse", "truncate"))
    _expect("model.quantization", config.model.quantization, ("none", "8bit", "4bit"))
    if config.model.device_map not in (None, "auto"):
        raise InputError(f"model.device_map={config.model.device_map!r}: expected auto or null")
    _expect("dataset.sampling", config.dataset.sampling, ("natural", "stratified"))
    _expect("recipe.optimizer", config.recipe.optimizer, ("adafactor", "adamw"))
    _expect("tracking.name", config.tracking.name, ("none", "wandb"))
    _expect("tracking.mode", config.tracking.mode, ("online", "offline", "disabled"))
    for loss in config.recipe.losses:
        _expect("recipe.losses", loss, LOSSES)
    if not config.recipe.losses:
        raise InputError("recipe.losses=[]: expected at least one of lm, unlikelihood, length_normalized")
    if not config.seeds or len(set(config.seeds)) != len(config.seeds):
        raise InputError(f"seeds={config.seeds}: expected one or more different integers")
    if any(seed < 0 or seed >= 2**32 for seed in config.seeds):
        raise InputError(f"seeds={config.seeds}: expected integers from 0 to 2**32 - 1")
    for name, shots in {"shots": config.shots, "dataset.shots": config.dataset.shots}.items():
        if shots is not None and shots != "all" and not _is_count(shots):
            raise InputError(f"{name}={shots!r}: expected at least 1, or all")
    for name, value in {
        "limit": config.limit,
        "eval_batch_size": config.eval_batch_size,
        "eval_batch_tokens": config.eval_batch_tokens,
        "gpu_tflops": config.gpu_tflops,
        "max_fused": config.max_fused,
        "recipe.batch_size": config.recipe.batch_size,
        "recipe.rows_per_pass": config.recipe.rows_per_pass,
        "recipe.patience": config.recipe.patience,
        "model.max_length": config.model.max_length,
        "model.logits_limit": config.model.logits_limit,
        "method.steps": getattr(config.method, "steps", None),
    }.items():
        if value is not None and value < 1:
            raise InputError(f"{name}={value}: expected at least 1")


def _expect(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(allowed)}")


# Left out of what a run's id hashes where they ask for nothing: of recipes, and of methods.
NEUTRAL = ("epochs", "label_smoothing", "weight_decay")
NEUTRAL_OF_METHODS: dict[str, Any] = {"bottleneck": None, "pre_norm": False}
LOCATION_FIELDS = ("folder", "local", "draws", "fetch")  # of a dataset's files
# What a result does not depend on: where things are, how a pass is cut. What a dataset's files hold has fingerprints.
TECHNICAL = {
    "model": ("path", "revision", "local", "package", "fetch", "device_map", "logits_limit", "shape"),
    "dataset": ("source", "path", "subset", "revision", "train", "evaluation", "stand_in", "folder", "local", "draws",
                "fetch", "header", "columns", "operations", "numbers", "skip_bad_rows", "deduplicate", "promptsource",
                "promptsource_skip", "prompts", "templates", "shots", "development", "parallel"),
    "recipe": ("name", "training", "pretrained_ia3", "rows_per_pass"),
}  # fmt: skip


def scientific(config: Config, seed: int) -> dict[str, Any]:
    """The configuration of one run as its record keeps it, with the content of the weights it starts from."""
    dataset = {key: value for key, value in asdict(config.dataset).items() if key not in LOCATION_FIELDS}
    recipe = asdict(config.recipe)
    for share in ("training", "pretrained_ia3"):  # the method already holds its own; another method's changes nothing
        recipe.pop(share)
    method = {"kind": config.method.kind, **asdict(config.method)}
    if method.get("pretrained"):
        method["pretrained_weights"] = content_id(resolve_path(method["pretrained"]))
    weights = content_id(resolve_path(config.model.path), config.model.revision)
    return {
        "method": method,
        "model": {**asdict(config.model), "weights": weights},
        "dataset": dataset,
        "recipe": recipe,
        "seed": seed,
        "shots": config.shots,
        "limit": config.limit,
        "template": config.template,
        "norm": config.norm,
    }


def question(config: Config, seed: int, shots: int, rows: int) -> dict[str, Any]:
    """What a run's result depends on, resolved: the same question is the same however it was asked.

    Args:
        shots: how many the run is given, whoever said so.
        rows: how many are evaluated.
    """
    whole = scientific(config, seed)
    for part, names in TECHNICAL.items():
        whole[part] = {key: value for key, value in whole[part].items() if key not in names}
    whole["dataset"]["labels"] = shown_names(config.dataset.labels)  # other spellings change no prompt
    if whole["model"]["weights"] is None:
        whole["model"]["path"] = config.model.path  # nothing better is known of it
    if not config.model.languages:
        del whole["model"]["languages"]
    whole["method"].pop("pretrained", None)
    if whole["method"].get("select") == "none":
        del whole["method"]["select"], whole["method"]["candidates"]
    for name, neutral in NEUTRAL_OF_METHODS.items():
        if whole["method"].get(name, neutral) == neutral:
            whole["method"].pop(name, None)
    if whole["method"].get("budget") is None:
        whole["method"] = {key: value for key, value in whole["method"].items() if key not in ("budget", "budget_of")}
    elif isinstance(config.method, PeftMethod):
        whole["method"].pop(config.method.sized_by, None)  # the budget decides
    recipe = whole["recipe"]
    for name in NEUTRAL:
        if recipe[name] == getattr(RecipeConfig, name):
            del recipe[name]
    if recipe.get("epochs") is not None:
        whole["method"].pop("steps", None)
    if config.dataset.development is None or recipe["patience"] is None:  # no rows to look at, or nothing comes of it
        recipe.pop("patience")
    if config.dataset.development is None or recipe["evaluations"] == RecipeConfig.evaluations:
        recipe.pop("evaluations")
    if not config.method.trains:  # a method that does not train is the same under every recipe
        whole.pop("recipe")
        whole["dataset"]["without_losses"] = []
    if not config.method.needs_shots:  # and one that looks at no shots, however they are drawn
        whole["dataset"]["sampling"] = DatasetConfig.sampling
    if config.forgetting and not config.method.keeps_weights:
        whole["forgetting"] = True  # a record without this measure does not answer the question
    return {**whole, "shots": shots, "limit": rows}


def run_id(asked: dict[str, Any], data_sha256: str, schema: int) -> str:
    """Sixteen hexadecimal digits that name a run: the same question on the same data has the same id."""
    text = json.dumps({**asked, "data_sha256": data_sha256, "schema": schema}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
