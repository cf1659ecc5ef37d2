"""Steps without storage: the real code on the meta device, so that any model can be priced on any machine.

What computes with values (some of PEFT's tuners) has none there and is counted on the real model, with attention as
plain matrix products like those of the meta device: the counts are the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from adaptbench.data.batching import Batch, Shape
from adaptbench.methods.base import Adaptation, Method
from adaptbench.models.backbone import Backbone
from adaptbench.schema import RecipeConfig
from adaptbench.scoring.limits import PassSize
from adaptbench.tasks import TaskType
from adaptbench.tasks.choices import Choices
from adaptbench.training.optim import RunOptimizer, update_rule

WHOLE = PassSize()


@dataclass
class MetaRun:
    """One run of a method on a meta copy of the model: the same computation, nothing but shapes."""

    adaptation: Adaptation
    recipe: RecipeConfig
    source: Backbone  # as it was before the method prepared it
    method: Method | None = None  # None: merged into the weights

    @classmethod
    def of(cls, method: Method, backbone: Backbone, recipe: RecipeConfig, task: TaskType | None = None) -> "MetaRun":
        """One run of a method on a model, asked a kind of task (rank classification unless given)."""
        return cls(method.prepare_to_count(backbone).to_task(task or Choices()), recipe, backbone, method)

    @property
    def task(self) -> TaskType:
        return self.adaptation.task

    def batch(self, shape: Shape) -> Batch:
        """A batch of this shape."""
        return self.task.batch_of_shape(shape, self.adaptation.backbone.device)

    def merged(self) -> "MetaRun | None":
        """The same run with what it learned folded into the weights, where the method can."""
        if self.method is None or not self.method.merges:
            return None
        backbone = self.method.merge(self.adaptation)
        return MetaRun(Adaptation(backbone, [0], task=self.task), self.recipe, backbone)

    def predict(self, shape: Shape, size: PassSize = WHOLE) -> Tensor:
        """Score the choices of a batch of this shape: in one pass, whatever its logits take, or in such slices."""
        with self.serving() as backbone:
            return self.task.predict(backbone, self.batch(shape), size)

    @contextmanager
    def serving(self) -> Iterator[Backbone]:
        """Inside, the model computes as for a prediction: adapted, without gradients, attention as plain products."""
        with (
            torch.inference_mode(),
            _frozen(self.adaptation.parameters),
            sdpa_kernel(SDPBackend.MATH),
            self.adaptation.for_inference().attached(),
        ):
            yield self.adaptation.backbone

    def forward_backward(self, shape: Shape, size: PassSize = WHOLE) -> None:
        """The loss of a batch of this shape and its gradients, in the same way."""
        with sdpa_kernel(SDPBackend.MATH), self.adaptation.attached(), self.adaptation.backbone.training():
            batch = self.batch(shape)
            output = self.task.forward(self.adaptation.backbone, batch, size)
            losses = self.task.run_losses(self.recipe.losses, output, batch, runs=1)
            losses.sum().backward()

    def optimizer(self) -> RunOptimizer:
        return RunOptimizer(self.adaptation.parameters, update_rule(self.recipe), 1, not self.adaptation.tuned)

    def optimizer_step(self, optimizer: RunOptimizer) -> None:
        alive = torch.ones(1, dtype=torch.bool, device=self.adaptation.backbone.device)
        optimizer.step(1e-3, self.recipe.clip_norm, alive)


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Without gradients to follow: the counter of FLOPs asks parameters that modules are called with for theirs."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


@contextmanager
def no_gradients_left(run: MetaRun):
    """Drop the gradients a count leaves behind."""
    try:
        yield
    finally:
        for parameter in run.adaptation.parameters:
            parameter.grad = None
