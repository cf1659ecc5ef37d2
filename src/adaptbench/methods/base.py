"""What a method is: it turns a base model and the few-shot sets of some runs into an Adaptation.

In-context learning and fine-tuning are the same kind of thing here; zero-shot is the method that does nothing.
"""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import torch
from safetensors.torch import save_file, save_model
from torch import Tensor, nn

from adaptbench.data.batching import Encoded
from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.templates import Prompt
from adaptbench.errors import InputError
from adaptbench.methods import budget as budgets
from adaptbench.methods.contexts import Contexts, ReadingPlan
from adaptbench.methods.norms import train_norms
from adaptbench.methods.selection import Trial, log_loss, prequential
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta
from adaptbench.schema import RecipeConfig
from adaptbench.tasks import TaskType
from adaptbench.tasks.choices import Choices
from adaptbench.training.log import TrainingLog
from adaptbench.training.loop import losses_of_passes, shape_together, train

METHODS: dict[str, type["Method"]] = {}
# How a learning rate or a size was found: nobody who uses what it led to needs to know.
NOT_STORED = ("select", "candidates", "budget", "budget_of")
M = TypeVar("M", bound=type["Method"])


def register(kind: str) -> Callable[[M], M]:
    """Make a method known under `kind`: its dataclass becomes the schema of conf/method/*.yaml."""

    def add(method: M) -> M:
        method.kind = kind
        METHODS[kind] = method
        return method

    return add


@dataclass(eq=False)
class Adaptation:
    """A model adapted to one task by R runs at once: what to compute with, and what would have to be stored."""

    backbone: Backbone
    seeds: Sequence[int]
    delta: Delta | None = None
    tuned: bool = False  # the backbone itself was changed (full fine-tuning)
    linear_head: bool = False  # a task's head is one linear map, whatever such models have
    contexts: Sequence[Contexts] | None = None  # what each run reads before a prompt
    task: TaskType = field(default_factory=Choices)  # what it is asked
    log: TrainingLog = field(default_factory=TrainingLog)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        head = [] if self.backbone.head is None else list(self.backbone.head.parameters())
        if self.delta is not None:
            return [*self.delta.parameters(), *head]
        return [*(p for p in self.backbone.model.parameters() if p.requires_grad and self.tuned), *head]

    @property
    def trainable(self) -> int:
        """Trainable parameters of one run, as they are kept: a reparameterisation that only helps training is not."""
        return self.trainable_without_head + self.of_head

    @property
    def trainable_without_head(self) -> int:
        """The same without a task's head, which every method has alike."""
        if self.delta is not None:
            return self.delta.for_inference().parameters_per_run
        return sum(parameter.numel() for parameter in self.parameters) - self.of_head * len(self.seeds)

    @property
    def of_head(self) -> int:
        """Parameters of one run's head."""
        head = self.backbone.head
        return 0 if head is None else sum(parameter[0].numel() for parameter in head.parameters())

    def for_inference(self) -> "Adaptation":
        """The adaptation as it is kept and served once it is trained."""
        return self if self.delta is None else replace(self, delta=self.delta.for_inference())

    def to_task(self, task: TaskType) -> "Adaptation":
        """The same, asked another kind of task: with the head that it needs, one for every run."""
        head = task.head(self.backbone, self.seeds, self.linear_head)
        return replace(self, task=task, backbone=replace(self.backbone, head=head) if head else self.backbone)

    @property
    def same_for_all_runs(self) -> bool:
        """Nothing depends on the run (zero-shot): evaluating once is enough."""
        return self.delta is None and not self.tuned and self.contexts is None and self.backbone.head is None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside, `backbone.model` computes as adapted."""
        with self.delta.attached(self.backbone.model) if self.delta is not None else nullcontext():
            yield

    @contextmanager
    def serving(self, tasks: Tensor) -> Iterator[None]:
        """Inside, row n of a batch is computed as run `tasks[n]` adapted: one batch for many tasks (section 3.3).

        Args:
            tasks: (N,) run index of every row.
        """
        if self.delta is None:
            raise ValueError("only deltas serve several tasks in one batch")
        with self.delta.for_rows(tasks).attached(self.backbone.model):
            yield

    def save(self, folder: Path, run: int) -> None:
        """Write what one run's user would have to keep beside the base model; nothing for zero-shot."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.delta is not None:
            self.delta.save(folder, run)
        elif self.tuned and not _whole(self.backbone.model):
            save_file(_trained(self.backbone.model), folder / "trained.safetensors")
        elif self.tuned:
            save_model(self.backbone.model, str(folder / "model.safetensors"))
        if self.contexts is not None:
            self.contexts[run].save(folder / "demonstrations.npy")
        if self.backbone.head is not None:
            self.backbone.head.save(folder, run, "head")


@dataclass(frozen=True)
class Method:
    """Hyper-parameters of a method. `name` is what records and tables call this configuration of it."""

    kind: ClassVar[str]
    fuses: ClassVar[bool] = True  # several runs can share one pass
    needs_shots: ClassVar[bool] = True
    restores: ClassVar[bool] = False  # what a run has stored can be loaded again
    searches: ClassVar[bool] = False  # takes gradients of every shot by itself before it trains
    trains: ClassVar[bool] = False  # follows gradients, for some number of steps
    keeps_weights: ClassVar[bool] = False  # the model computes as before; nothing is trained
    heads_alone: ClassVar[bool] = False  # trains nothing but a task's head
    whole_texts: ClassVar[bool] = False  # every token sees the whole text: encoders alone
    merges: ClassVar[bool] = False  # what it learns can be folded into the model's weights
    source: ClassVar[str] = ""

    name: str = "unnamed"

    @property
    def attachment(self) -> str:
        """What it attaches to, in these settings."""
        return "nothing"

    @property
    def formula(self) -> str:
        """What it computes, in these settings."""
        return ""

    def check(self) -> None:
        """Find fault with the settings before any model is loaded.

        Raises:
            InputError: names the setting.
        """

    def check_model(self, backbone: Backbone) -> None:
        """Find fault with a model, loaded or not, that the method cannot work on.

        Raises:
            InputError: says why.
        """

    def sized(self, backbone: Backbone) -> "Method":
        """The method in the size that a budget allows on this model; itself where no budget is set.

        Raises:
            InputError: the smallest size is beyond the budget.
        """
        return self

    def missing_files(self) -> str | None:
        """What it needs from disk and does not find, with what to do about it; asked before a model is loaded."""
        return None

    def training_steps(self, recipe: RecipeConfig, rows: int) -> int:
        """Steps that a run on so many training rows takes; fewer where its training ends early."""
        return 0

    def steps_on(self, recipe: RecipeConfig, rows: int) -> int:
        """Steps of one training on so many rows."""
        return 0

    def plan(self, shots: int) -> ReadingPlan:
        """What a prediction reads with so many shots: the prompt alone, unless demonstrations come before it."""
        return ReadingPlan()

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        """The untrained adaptation. On a meta backbone it has no storage: for counting."""
        raise NotImplementedError

    def prepare_to_count(self, backbone: Backbone) -> Adaptation:
        """The untrained adaptation of one run, on which steps are counted: without storage where that is possible."""
        return self.prepare(backbone.to_count(), seeds=[0])

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: RecipeConfig,
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        """Adapt the model to a task, one run for each few-shot set. A method without more to do only prepares."""
        return self.prepare(backbone, [few_shot.seed for few_shot in few_shot_sets]).to_task(task.type)

    def merge(self, adaptation: Adaptation, run: int = 0) -> Backbone:
        """A model that computes as run `run` does, without anything attached.

        Raises:
            NotImplementedError: what the method learns is no change of weights.
        """
        if not self.merges or adaptation.delta is None:
            raise NotImplementedError(f"{self.name} cannot be merged into the weights")
        merged = replace(adaptation.backbone, model=copy.deepcopy(adaptation.backbone.model))
        adaptation.delta.merge(merged.model, run)
        return merged

    def stored_tensors(self, adaptation: Adaptation) -> tuple[Mapping[str, Tensor], Mapping[str, str]]:
        """The tensors of the file that one run stores, and the file's metadata; on a meta backbone for their shapes."""
        if adaptation.delta is not None:
            return adaptation.delta.state_of(0), {}
        if not adaptation.tuned:
            return {}, {}
        model = adaptation.backbone.model
        return _without_ties(model) if _whole(model) else (_trained(model), {})

    def expected_tensors(self, backbone: Backbone, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names and shapes (on the meta device) of what a run of these settings stores.

        Args:
            state: what a file holds, for methods whose shapes depend on the run.
        """
        raise NotImplementedError(f"{self.kind} stores no adapter that could be loaded")

    def restore(self, backbone: Backbone, state: Mapping[str, Tensor]) -> Adaptation:
        """The adaptation of one run from what it stored, names and shapes being those of `expected_tensors`.

        Raises:
            InputError: values that cannot be.
        """
        raise NotImplementedError(f"{self.kind} stores no adapter that could be loaded")

    def save(self, adaptation: Adaptation, folder: Path, run: int) -> int:
        """Store one run and return the bytes of the files written. The method's settings go with it."""
        adaptation.save(folder, run)
        if any(folder.iterdir()):
            (folder / "adapter_config.json").write_text(self.settings(adaptation))
        return sum(file.stat().st_size for file in folder.iterdir())

    def settings(self, adaptation: Adaptation) -> str:
        """What is stored beside the parameters: the method's own numbers and the base model's name."""
        settings = {"kind": self.kind, **asdict(self), "base_model": adaptation.backbone.name}
        for name in NOT_STORED:
            settings.pop(name, None)
        return json.dumps(settings, indent=1, sort_keys=True)


@dataclass(frozen=True)
class TrainedMethod(Method):
    """A method that follows gradients, with the hyper-parameters the paper sets per method (appendix D)."""

    trains: ClassVar[bool] = True

    steps: int = 1000
    learning_rate: float = 3e-3
    scale_parameter: bool = True  # Adafactor: step relative to the parameter's own size
    losses: list[str] | None = None  # instead of the recipe's
    select: str = "none"
    """prequential: the learning rate is chosen among `candidates` by how well it predicts the shots it has not seen."""
    candidates: list[float] = field(default_factory=lambda: [0.3, 1.0, 3.0])
    """Factors of the learning rate."""

    def training_steps(self, recipe: RecipeConfig, rows: int) -> int:
        """Those of every candidate included."""
        if self.select == "none":
            return self.steps_on(recipe, rows)
        parts = [self.steps_on(recipe, count) for count in (rows // 4, rows // 2)]
        return len(self.candidates) * sum(parts) + self.steps_on(recipe, rows)

    def steps_on(self, recipe: RecipeConfig, rows: int) -> int:
        """Steps of one training on so many rows: the recipe's epochs, or the method's own number."""
        return self.steps if recipe.epochs is None else max(1, round(recipe.epochs * rows / recipe.batch_size))

    def check_selection(self) -> None:
        """Find fault with `select`.

        Raises:
            InputError: names the setting.
        """
        if self.select not in ("none", "prequential"):
            raise InputError(f"method.select={self.select!r}: expected none or prequential")
        if self.select != "none" and type(self).adapt is not TrainedMethod.adapt:
            raise InputError(f"method.select={self.select}: {self.kind} trains in a way of its own, expected none")
        if not self.candidates or not all(0 < factor < float("inf") for factor in self.candidates):
            raise InputError(f"method.candidates={self.candidates}: expected positive numbers")

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: RecipeConfig,
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        def trained(shots: Sequence[FewShotSet], rates: float | Sequence[float]) -> Adaptation:
            adaptation = self.prepare(backbone, [few_shot.seed for few_shot in shots]).to_task(task.type)
            return self.train(adaptation, task, shots, recipe, template, progress, rates=rates)

        if self.select == "none":
            return trained(few_shot_sets, self.learning_rate)

        def train_on(shots: Sequence[FewShotSet], rate: float) -> Trial:
            adaptation = trained(shots, rate)
            return Trial(adaptation.backbone, adaptation.log, partial(_log_losses, adaptation))

        candidates = [self.learning_rate * factor for factor in self.candidates]
        found = prequential(candidates, train_on, task, few_shot_sets, template, recipe.batch_size)
        adaptation = trained(few_shot_sets, found.rates)
        log = adaptation.log
        log.shapes = [[*before, *own] for before, own in zip(found.trained, log.shapes, strict=True)]
        own = log.predicted or [[] for _ in found.predicted]
        log.predicted = [[*before, *rest] for before, rest in zip(found.predicted, own, strict=True)]
        log.nats = [{rate: nats[run] for rate, nats in found.nats.items()} for run in range(len(found.rates))]
        log.selected = [{"learning_rate": rate} for rate in found.rates]
        return adaptation

    def train(
        self,
        adaptation: Adaptation,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: RecipeConfig,
        template: str,
        progress: bool,
        before: Sequence[Callable[[int, Prompt], str]] | None = None,
        rates: float | Sequence[float] | None = None,
    ) -> Adaptation:
        """Follow the gradients from a prepared adaptation, and fold away what only helped to train it.

        Args:
            before: for each run, the demonstrations that stand before the prompt of a shot (its index); none if None.
            rates: learning rates in place of the method's own, of all runs or of each.
        """
        if self.losses is not None:
            recipe = replace(recipe, losses=self.losses)
        with adaptation.attached():
            adaptation.log = train(
                adaptation.backbone,
                adaptation.parameters,
                task,
                few_shot_sets,
                recipe,
                steps=self.steps_on(recipe, len(few_shot_sets[0].examples)),
                learning_rate=self.learning_rate if rates is None else rates,
                scale_parameter=self.scale_parameter,
                run_axis=not adaptation.tuned,
                template=template,
                progress=progress,
                before=before,
            )
        return adaptation.for_inference()


@torch.no_grad()
def _log_losses(adaptation: Adaptation, batches: Sequence[Sequence[Encoded]]) -> Tensor:
    """(R,) mean log-losses of a batch for each run, in passes as large as memory allows."""
    task, backbone = adaptation.task, adaptation.backbone
    size = task.pass_size(backbone, shape_together(task, batches), len(batches))
    total = torch.zeros(len(batches), device=backbone.device)
    with adaptation.attached():
        for losses in losses_of_passes(task, backbone, batches, RecipeConfig(losses=log_loss(task)), size):
            total += losses
    return total


@dataclass(frozen=True)
class PeftMethod(TrainedMethod):
    """A method that trains a small delta on a frozen model: `build` says what attaches where."""

    restores: ClassVar[bool] = True
    sized_by: ClassVar[str] = ""  # the setting that a budget decides

    layer_norms: bool = False
    """Train all layer norms besides, as most of the paper's released configurations do."""
    budget: str | None = None
    """Most parameters to train and keep, as a share of the model's (10%) or a number (1M): decides width or rank."""
    budget_of: str = "all"
    """Of which parameters a share is: all, or non_embedding."""

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        raise NotImplementedError

    def in_size(self, size: int) -> Self:
        """The same in another size."""
        changed: dict[str, Any] = {self.sized_by: size}
        return replace(self, **changed)

    def check_budget(self) -> None:
        """Find fault with `budget`.

        Raises:
            InputError: names the setting.
        """
        if self.budget_of not in budgets.DENOMINATORS:
            expected = " or ".join(budgets.DENOMINATORS)
            raise InputError(f"method.budget_of={self.budget_of!r}: expected {expected}")
        if self.budget is None:
            return
        if not self.sized_by:
            raise InputError(f"method.budget={self.budget}: {self.kind} has no size to choose (method.budget=null)")
        budgets.parse(self.budget)

    def sized(self, backbone: Backbone) -> Self:
        if self.budget is None:
            return self

        def parameters(size: int) -> int:
            with torch.device("meta"):
                return self.in_size(size).delta(backbone.anatomy, runs=1).for_inference().parameters_per_run

        allowed = budgets.parameters_allowed(self.budget, self.budget_of, backbone)
        size = budgets.largest(parameters, allowed)
        if not size:
            raise InputError(
                f"method.budget={self.budget}: {allowed:,} parameters of {backbone.name}, but {self.name} has "
                f"{parameters(1):,} at its smallest ({self.sized_by}=1)"
            )
        return self.in_size(size)

    def virtual_token_counts(self) -> tuple[int, int]:
        """Virtual tokens to leave room for before a prompt, and in an encoder-decoder before each choice."""
        return 0, 0

    def delta(self, anatomy: Anatomy, runs: int) -> Delta:
        """Everything that is trained, with constant initial values."""
        delta = self.build(anatomy, runs)
        if self.layer_norms:
            train_norms(delta, anatomy)
        return delta

    def start(self, delta: Delta, backbone: Backbone, seeds: Sequence[int]) -> None:
        """Initial values that need the whole model, not only the module a piece attaches to."""

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        if self.budget is not None:
            return replace(self.sized(backbone), budget=None).prepare(backbone, seeds)
        before_prompt, before_choice = self.virtual_token_counts()
        before_choice = before_choice if backbone.is_encoder_decoder else 0
        backbone = replace(backbone, virtual_tokens=before_prompt, virtual_tokens_of_choice=before_choice)
        if backbone.device.type == "meta":
            with torch.device("meta"):
                return Adaptation(backbone, seeds, delta=self.delta(backbone.anatomy, len(seeds)))
        delta = self.delta(backbone.anatomy, len(seeds)).initialise(seeds, backbone.model)
        self.start(delta, backbone, seeds)
        return Adaptation(backbone, seeds, delta=delta.to(backbone.device))

    def expected_tensors(self, backbone: Backbone, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with torch.device("meta"):
            return self.delta(backbone.anatomy, runs=1).for_inference().state_of(0)

    def restore(self, backbone: Backbone, state: Mapping[str, Tensor]) -> Adaptation:
        adaptation = self.prepare(backbone, seeds=[0]).for_inference()
        assert adaptation.delta is not None
        adaptation.delta.load_state_of(0, dict(state))
        return adaptation


def _whole(model: nn.Module) -> bool:
    """Whether every parameter is trained."""
    return all(parameter.requires_grad for parameter in model.parameters())


def _trained(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained, by name; a tied one once."""
    return {name: parameter.detach() for name, parameter in model.named_parameters() if parameter.requires_grad}


def _without_ties(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every tensor once, under the first of its names; the file's metadata says what the others refer to."""
    names: dict[int, list[str]] = {}
    tensors = model.state_dict(keep_vars=True)
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    groups = [sorted(group) for group in names.values()]
    return {first: tensors[first] for first, *_ in groups}, {name: first for first, *rest in groups for name in rest}
