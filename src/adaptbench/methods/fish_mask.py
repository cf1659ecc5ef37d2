"""FISH mask (Sung et al. 2021): train only the parameters with the largest Fisher information, keep the rest.

The empirical Fisher information of a parameter is its squared gradient, averaged over the few-shot examples. What is
trained and kept are the chosen values and their places, not a dense copy of the model with a mask.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from adaptbench.data.batching import Shape
from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.errors import InputError
from adaptbench.methods.base import Adaptation, TrainedMethod, register
from adaptbench.methods.tensor_files import shown
from adaptbench.models import hooks
from adaptbench.models.backbone import Backbone
from adaptbench.models.delta import Delta, Piece
from adaptbench.models.precision import wide
from adaptbench.schema import RecipeConfig
from adaptbench.scoring.limits import PassSize
from adaptbench.training.stream import TrainingStream


class Chosen(Piece):
    """New values (1, K) for the elements of one weight at `indices` (1, K) of its flattened form."""

    stored = ("indices",)

    def __init__(self, values: Tensor, indices: Tensor):
        super().__init__()
        self.values = nn.Parameter(values[None].clone())
        self.register_buffer("indices", indices[None].to(torch.int32))

    def forward(self, weight: Tensor) -> Tensor:
        places: Any = self.indices
        flat = weight.detach().flatten().scatter(0, places[0].long(), self.values[0].to(weight.dtype))
        return flat.view(weight.shape)

    def merge(self, module: nn.Module, run: int, detail: str) -> None:
        weight: Any = module.get_parameter(detail)
        weight.copy_(self(weight))


def delta_of(model: nn.Module, chosen: Mapping[str, Tensor]) -> Delta:
    """A delta on the elements `chosen` (indices into the flattened parameter, by parameter name)."""
    delta = Delta(1)
    owners: dict[int, list[tuple[str, str]]] = {}  # a tied weight belongs to several modules
    for path, module in model.named_modules():
        for parameter_name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((path, parameter_name))
    for name, indices in chosen.items():
        if len(indices):
            parameter = model.get_parameter(name)
            values = parameter.detach().flatten()[indices.to(parameter.device)]
            piece = Chosen(wide(values), indices)
            for path, parameter_name in owners[id(parameter)]:
                delta.attach(hooks.weight, name, path, piece, parameter_name)
    return delta


def spread(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """`count` elements over parameters in proportion to their sizes: where there is no gradient to choose by."""
    total, before, shares = sum(sizes.values()), 0, {}
    for name, size in sizes.items():
        shares[name] = count * (before + size) // total - count * before // total
        before += size
    return shares


def largest(information: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    """Places of the `count` largest elements over all parameters, in increasing order, by parameter name."""
    flat = torch.cat([tensor.flatten() for tensor in information.values()])
    best = flat.topk(count, sorted=False).indices.sort().values
    bounds = torch.tensor([0, *(tensor.numel() for tensor in information.values())]).cumsum(0)
    edges = torch.searchsorted(best.cpu(), bounds)
    return {name: best[edges[i] : edges[i + 1]] - bounds[i].to(best.device) for i, name in enumerate(information)}


@register("fish_mask")
@dataclass(frozen=True)
class FishMask(TrainedMethod):
    """The share `keep` of all parameters. The values depend on the run's weights, so runs cannot be fused."""

    fuses: ClassVar[bool] = False
    restores: ClassVar[bool] = True
    attachment = "the weights"
    searches = True
    formula = "w_i trained where mean of (∂L/∂w_i)² is largest"
    source = "arXiv 2111.09839"
    merges = True

    keep: float = 0.002

    def check(self) -> None:
        if not 0 < self.keep <= 1:
            raise InputError(f"method.keep={self.keep}: expected a share between 0 and 1")

    def count(self, backbone: Backbone) -> int:
        """How many parameters are trained."""
        return max(1, int(self.keep * backbone.parameters_total))

    def prepare(self, backbone: Backbone, seeds: Sequence[int]) -> Adaptation:
        """A mask without data, for counting: as many elements, spread evenly over the parameters."""
        if len(seeds) != 1:
            raise ValueError("a FISH mask trains one run at a time")
        sizes = {name: parameter.numel() for name, parameter in backbone.model.named_parameters()}
        shares = spread(sizes, self.count(backbone))
        chosen = {name: torch.arange(share, device=backbone.device) for name, share in shares.items()}
        return Adaptation(backbone, seeds, delta=delta_of(backbone.model, chosen))

    def adapt(
        self,
        backbone: Backbone,
        task: TaskData,
        few_shot_sets: Sequence[FewShotSet],
        recipe: RecipeConfig,
        template: str = "random",
        progress: bool = False,
    ) -> Adaptation:
        (few_shot,) = few_shot_sets
        information, shapes = fisher_information(backbone, task, few_shot, recipe, template)
        chosen = largest(information, self.count(backbone))
        adaptation = Adaptation(backbone, [few_shot.seed], delta=delta_of(backbone.model, chosen)).to_task(task.type)
        trained = self.train(adaptation, task, few_shot_sets, recipe, template, progress)
        trained.log.shapes[0][:0] = shapes  # choosing is part of the bill
        return trained

    def expected_tensors(self, backbone: Backbone, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        places = {name: ids for name, ids in state.items() if name.endswith(".indices")}
        expected: dict[str, Tensor] = {}
        for name, ids in places.items():
            expected[name] = torch.empty(ids.numel(), dtype=torch.int32, device="meta")
            expected[f"{name.removesuffix('indices')}values"] = torch.empty(ids.numel(), device="meta")
        return expected

    def restore(self, backbone: Backbone, state: Mapping[str, Tensor]) -> Adaptation:
        chosen = {name.removesuffix(".indices"): ids for name, ids in state.items() if name.endswith(".indices")}
        self._check_places(backbone, chosen)
        delta = delta_of(backbone.model, {name: ids.long() for name, ids in chosen.items()})
        delta.load_state_of(0, dict(state))
        return Adaptation(backbone, [0], delta=delta)

    def _check_places(self, backbone: Backbone, chosen: Mapping[str, Tensor]) -> None:
        """What is replaced are elements of the model, none of them twice, and as many as `keep` says."""
        parameters = dict(backbone.model.named_parameters())
        for name, ids in chosen.items():
            parameter = parameters.get(name)
            if parameter is None:
                raise InputError(f"{shown(f'{name}.indices')}: {backbone.name} has no such parameter")
            if not len(ids) or not 0 <= int(ids.min()) <= int(ids.max()) < parameter.numel():
                raise InputError(f"{shown(f'{name}.indices')}: expected places from 0 to {parameter.numel() - 1}")
            if len(ids.unique()) != len(ids):
                raise InputError(f"{shown(f'{name}.indices')}: a place comes twice")
        kept, expected = sum(map(len, chosen.values())), self.count(backbone)
        if kept != expected:
            raise InputError(f"{kept} values, but keep={self.keep} of {backbone.name} are {expected}")


def fisher_information(
    backbone: Backbone, task: TaskData, few_shot: FewShotSet, recipe: RecipeConfig, template: str
) -> tuple[dict[str, Tensor], list[Shape]]:
    """Mean squared gradient of every parameter over the few-shot examples, one at a time, without dropout."""
    model = backbone.model
    stream = TrainingStream(task, few_shot, template, 1, lambda prompt: task.type.encode(backbone, prompt))
    information = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    shapes = []
    model.requires_grad_(True)
    try:
        for _ in few_shot.examples:
            rows = stream.next_batch()
            shapes.append(task.type.shape_of(rows))
            batch = task.type.collate(rows, backbone)
            output = task.type.forward(backbone, batch, PassSize())
            loss = task.type.run_losses(recipe.losses, output, batch, runs=1).sum()
            gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
            for total, gradient in zip(information.values(), gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.square(), alpha=1 / len(few_shot.examples))
    finally:
        model.requires_grad_(False)
    return information, shapes
