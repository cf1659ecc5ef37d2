"""What a method is: it turns a base model and the few-shot sets of some runs into an Adaptation.

In-context learning and fine-tuning are the same kind of thing here; zero-shot is the method that does nothing.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import torch
from safetensors.torch import save_model
from torch import nn

from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.methods.delta import Delta
from adaptbench.models.anatomy import Anatomy
from adaptbench.models.backbone import Backbone
from adaptbench.training.loop import TrainingLog, train

if TYPE_CHECKING:
    from adaptbench.config import RecipeConfig

METHODS: dict[str, type["Method"]] = {}
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
    contexts: Sequence[tuple[int, ...]] | None = None  # token ids read before every prompt, per run
    demonstrations: Sequence[int] | None = None  # how many of the shots those ids hold, per run
    log: TrainingLog = field(default_factory=TrainingLog)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        if self.delta is not None:
            return list(self.delta.parameters())
        return list(self.backbone.model.parameters()) if self.tuned else []

    @property
    def trainable(self) -> int:
        """Trainable parameters of one run."""
        if self.delta is not None:
            return self.delta.parameters_per_run
        return sum(parameter.numel() for parameter in self.parameters)

    @property
    def same_for_all_runs(self) -> bool:
        """Nothing depends on the run (zero-shot): evaluating once is enough."""
        return self.delta is None and not self.tuned and self.contexts is None

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside, `backbone.model` computes as adapted."""
        with self.delta.attached(self.backbone.model) if self.delta is not None else nullcontext():
            yield

    def save(self, folder: Path, run: int) -> None:
        """Write what one run's user would have to keep beside the base model; nothing for zero-shot."""
        folder.mkdir(parents=True, exist_ok=True)
        if self.delta is not None:
            self.delta.save(folder, run)
        elif self.tuned:
            save_model(self.backbone.model, str(folder / "model.safetensors"))
        elif self.contexts is not None:
            np.save(folder / "demonstrations.npy", np.array(self.contexts[run], dtype=np.int32))


@dataclass(frozen=True)
class Method:
    """Hyper-parameters of a method. `name` is what records and tables call this configuration of it."""

    kind: ClassVar[str]
    fuses: ClassVar[bool] = True  # several runs can share one pass

    name: str = "unnamed"

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        """The untrained adaptation. On a meta backbone it has no storage: for counting."""
        raise NotImplementedError

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: "RecipeConfig",
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        """Adapt the model to a task, one run for each few-shot set. A method without more to do only prepares."""
        return self.prepare(backbone, [few_shot.seed for few_shot in few_shot_sets])

    def save(self, adaptation: Adaptation, folder: Path, run: int) -> int:
        """Store one run and return the bytes of the files written. The method's settings go with it."""
        adaptation.save(folder, run)
        if any(folder.iterdir()):
            (folder / "adapter_config.json").write_text(self.settings(adaptation))
        return sum(file.stat().st_size for file in folder.iterdir())

    def settings(self, adaptation: Adaptation) -> str:
        """What is stored beside the parameters: the method's own numbers and the base model's name."""
        settings = {"kind": self.kind, **asdict(self), "base_model": adaptation.backbone.name}
        return json.dumps(settings, indent=1, sort_keys=True)


@dataclass(frozen=True)
class TrainedMethod(Method):
    """A method that follows gradients, with the hyper-parameters the paper sets per method (appendix D)."""

    steps: int = 1000
    learning_rate: float = 3e-3
    scale_parameter: bool = True  # Adafactor: step relative to the parameter's own size

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: "RecipeConfig",
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        adaptation = self.prepare(backbone, [few_shot.seed for few_shot in few_shot_sets])
        with adaptation.attached():
            adaptation.log = train(
                adaptation.backbone,
                adaptation.parameters,
                task,
                few_shot_sets,
                recipe,
                steps=self.steps,
                learning_rate=self.learning_rate,
                scale_parameter=self.scale_parameter,
                run_axis=adaptation.delta is not None,
                template=template,
                progress=progress,
            )
        return adaptation


@dataclass(frozen=True)
class PeftMethod(TrainedMethod):
    """A method that trains a small delta on a frozen model: `build` says what attaches where."""

    def build(self, anatomy: Anatomy, runs: int) -> Delta:
        raise NotImplementedError

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        if backbone.device.type == "meta":
            with torch.device("meta"):
                return Adaptation(backbone, seeds, delta=self.build(backbone.anatomy, len(seeds)))
        delta = self.build(backbone.anatomy, len(seeds)).initialise(seeds).to(backbone.device)
        return Adaptation(backbone, seeds, delta=delta)
