"""What a run may be told: dataclasses that are at once Hydra's schema, its types and its documentation.

YAML files in conf/ carry names and numbers only; a registry of dataclasses (see `methods`) gives them
meaning. A misspelt key, an unknown choice or a wrong type fails while the configuration is composed.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from adaptbench.data.labels import label_mapping, shown_names
from adaptbench.errors import InputError
from adaptbench.methods import METHODS, Method
from adaptbench.models.backbone import LOGITS_LIMIT, resolve_path
from adaptbench.models.identity import content_id

NORMS = ("token", "none", "character", "byte")
LOSSES = ("lm", "unlikelihood", "length_normalized")
DTYPES = ("float32", "bfloat16", "float16")


@dataclass
class ModelConfig:
    """A base model: a folder in Hugging Face format, a hub id, or `microworld:<name>` (shipped here)."""

    name: str = MISSING
    path: str = MISSING
    revision: str | None = None
    """Branch, tag or commit of a hub model; null: its main branch. Runs are known by the commit it stands for."""
    dtype: str = "float32"
    """Of the frozen weights; what is trained, and the optimizer's statistics, are float32 at least."""
    max_length: int | None = None
    """Longest input in tokens; None takes the model's own limit."""
    overlong: str = "refuse"
    """Prompts beyond it: refuse, or truncate (and record how many were)."""
    device_map: str | None = None
    """auto: spread over the accelerators and the memory there are (accelerate); null: all on `device`."""
    quantization: str = "none"
    """none, 8bit or 4bit (bitsandbytes)."""
    logits_limit: int = LOGITS_LIMIT
    """Most bytes that the logits of a pass may take, all its runs together: batches are split, many choices sliced."""
    shape: dict[str, Any] = field(default_factory=dict)
    """The architecture's published configuration, for counting without weights or network."""


@dataclass
class DatasetConfig:
    """A task. `source` says what the other fields mean: microworld, files (paths) or hub (split names)."""

    name: str = MISSING
    source: str = MISSING
    path: str | None = None
    subset: str | None = None
    revision: str | None = None
    train: str | None = None
    evaluation: str | None = None
    folder: str = "."
    """Where relative paths of files start."""
    local: dict[str, str] = field(default_factory=dict)
    """Files read for a hub data set's splits where they are there: {train: .., evaluation: .., stand_in: ..}."""
    stand_in: str | None = None
    """Split evaluated where neither file nor hub has `evaluation`, from `local.stand_in`; records and tables say so."""
    draws: str | None = None
    """Ready-made few-shot draws: a path with `{seed}` in it."""
    sampling: str = "natural"
    """How few-shot sets are drawn: natural (as they come) or stratified (equally many of each label)."""
    shots: int | None = None
    metric: str = "accuracy"
    columns: dict[str, Any] = field(default_factory=dict)
    """Template field -> column of the file, or several of which the first there is counts; `a.b` looks inside `a`."""
    operations: list[str] = field(default_factory=list)
    """Named clean-ups of every row (see `data/rows.py`)."""
    labels: Any = field(default_factory=dict)
    """Label as written in the file -> index of its answer choice: where given, nothing else is accepted.

    Templates see the first name of an index; further ones are other spellings of it.
    """
    numbers: list[str] = field(default_factory=list)
    """Template fields to compute with: CSV and TSV hold text."""
    skip_bad_rows: bool = False
    """Leave out rows that cannot be read or phrased, and name them in the record, instead of refusing the file."""
    unlabelled: bool = False
    """Evaluation rows have no labels: predictions are recorded and no score."""
    answer_delimiter: str = " "
    """What stands between a prompt and its answer; empty for languages that write no spaces."""
    without_losses: list[str] = field(default_factory=list)
    """Losses of the recipe that training on this dataset leaves out."""
    prompts: str | None = None
    """own (`templates`) or promptsource; null: own where there are some."""
    promptsource: str | None = None
    """A promptsource `templates.yaml`; its original-task templates are used."""
    promptsource_skip: list[str] = field(default_factory=list)
    """Templates of that file to leave out."""
    templates: dict[str, dict[str, str]] = field(default_factory=dict)
    """Name -> {jinja, answer_choices}, in the P3 format."""
    fetch: str | None = None
    """What to type or do where the data are missing, if it is not the hub's own command."""


@dataclass
class RecipeConfig:
    """How methods are trained: shared by all, so that methods differ in nothing else (paper, section 3.2-3.3)."""

    name: str = MISSING
    losses: list[str] = field(default_factory=lambda: list(LOSSES))
    optimizer: str = "adafactor"
    batch_size: int = 8
    warmup_fraction: float = 0.06
    clip_norm: float = 1.0
    pretrained_ia3: str = "outputs/vectors/${model.name}"
    """Where T-Few's adapter starts from (paper, section 3.4): a folder, microworld:<name>, or the released `.pt`."""
    training: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Per method: its steps, learning rate and size, referred to by conf/method/*.yaml."""


@dataclass
class TrackingConfig:
    """Where finished records are mirrored to, besides the files."""

    name: str = "none"
    project: str = "adaptbench"
    mode: str = "offline"


@dataclass
class Config:
    """One cell: a method on a model and a dataset, for some seeds."""

    name: str = "default"
    """The experiment: results go to outputs/<name>/."""
    method: Any = MISSING
    model: ModelConfig = MISSING
    dataset: DatasetConfig = MISSING
    recipe: RecipeConfig = MISSING
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    seeds: list[int] = field(default_factory=lambda: [42, 1024, 0, 1, 32])
    shots: int | None = None
    """Few-shot examples; None takes the dataset's own number."""
    limit: int | None = None
    """Evaluate only the first so many rows."""
    template: str = "random"
    """`random`: one per example, as in the paper; a template's name; or `all`: every one is scored."""
    norm: str = "token"
    """Length normalisation of choice scores: token, none, character, byte."""
    eval_batch_size: int = 128
    device: str = "auto"
    output: str = MISSING
    keep_adapters: bool = True
    """False deletes what a run would have to store once its size is known."""
    max_fused: int | None = None
    """Most runs to train in one pass; None: all seeds of a cell. Fewer where memory is short."""
    progress: bool = True
    seconds_per_run: float | None = None
    """Measured, on a machine named beside it: what a sweep says it will take."""
    dry_run: bool = False
    """Check everything, price every cell, estimate the GPU hours, train nothing."""
    gpu_tflops: float = 100.0
    """Sustained teraFLOP/s that the estimate assumes: about a third of an A100's bfloat16 peak."""
    cells: list[dict[str, Any]] = field(default_factory=list)
    """Which cells of a sweep's grid belong to it, in the order to run them; empty: all.

    [{model: [..], method: [..]}, ..]
    """


def register_schemas() -> None:
    """Tell Hydra the schemas, so that every override is checked while composing."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
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
    try:
        config = OmegaConf.to_object(composed)
    except OmegaConfBaseException as error:
        raise InputError(" ".join(str(error).split())) from error
    assert isinstance(config, Config)
    if not isinstance(config.method, Method):
        raise InputError(f"method={config.method!r}: expected one of {', '.join(sorted(METHODS))}")
    config.dataset.labels = label_mapping(config.dataset.labels)
    _check(config)
    config.method.check()
    for loss in config.dataset.without_losses:
        _expect("dataset.without_losses", loss, LOSSES)
    config.recipe.losses = [loss for loss in config.recipe.losses if loss not in config.dataset.without_losses]
    own = getattr(config.method, "losses", None)
    if own is not None and config.dataset.without_losses:
        own = [loss for loss in own if loss not in config.dataset.without_losses]
        config.method = replace(config.method, losses=own)  # type: ignore[call-arg]
    if not config.recipe.losses or own == []:
        raise InputError(f"dataset.without_losses={config.dataset.without_losses}: leaves the recipe without a loss")
    return config


def _check(config: Config) -> None:
    _expect("norm", config.norm, NORMS)
    _expect("model.dtype", config.model.dtype, DTYPES)
    _expect("model.overlong", config.model.overlong, ("refuse", "truncate"))
    _expect("model.quantization", config.model.quantization, ("none", "8bit", "4bit"))
    if config.model.device_map not in (None, "auto"):
        raise InputError(f"model.device_map={config.model.device_map!r}: expected auto or null")
    _expect("dataset.sampling", config.dataset.sampling, ("natural", "stratified"))
    _expect("dataset.metric", config.dataset.metric, ("accuracy",))
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
    for name, value in {
        "shots": config.shots,
        "limit": config.limit,
        "eval_batch_size": config.eval_batch_size,
        "dataset.shots": config.dataset.shots,
        "gpu_tflops": config.gpu_tflops,
        "max_fused": config.max_fused,
        "recipe.batch_size": config.recipe.batch_size,
        "model.max_length": config.model.max_length,
        "model.logits_limit": config.model.logits_limit,
        "method.steps": getattr(config.method, "steps", None),
    }.items():
        if value is not None and value < 1:
            raise InputError(f"{name}={value}: expected at least 1")


def _expect(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name}={value!r}: expected one of {', '.join(known)}")


LOCATION_FIELDS = ("folder", "local", "draws", "fetch")  # of a dataset's files
# What a result does not depend on: where things are, how a pass is cut. What a dataset's files hold has fingerprints.
TECHNICAL = {
    "model": ("path", "revision", "device_map", "logits_limit", "shape"),
    "dataset": ("source", "path", "subset", "revision", "train", "evaluation", "stand_in", "folder", "local", "draws",
                "fetch", "columns", "operations", "numbers", "skip_bad_rows", "promptsource", "promptsource_skip",
                "prompts", "templates", "shots"),
    "recipe": ("name", "training", "pretrained_ia3"),
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
    whole["method"].pop("pretrained", None)
    if getattr(config.method, "steps", None) is None:  # a method that does not train is the same under every recipe
        whole.pop("recipe")
        whole["dataset"]["without_losses"] = []
    if not config.method.needs_shots:  # and one that looks at no shots, however they are drawn
        whole["dataset"]["sampling"] = DatasetConfig.sampling
    return {**whole, "shots": shots, "limit": rows}


def run_id(asked: dict[str, Any], data_sha256: str, schema: int) -> str:
    """Sixteen hexadecimal digits that name a run: the same question on the same data has the same id."""
    text = json.dumps({**asked, "data_sha256": data_sha256, "schema": schema}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
