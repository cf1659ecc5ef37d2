"""What the embedded base models are trained on: the generated streams of `microworld/corpus.py`, in stages."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor
from transformers import PreTrainedModel, T5ForConditionalGeneration

from adaptbench.methods.ia3 import IA3
from adaptbench.microworld import corpus, world
from adaptbench.microworld.models import gpt_model, t5_model
from adaptbench.microworld.tokenizer import build_tokenizer
from adaptbench.models.backbone import Backbone, load_backbone
from adaptbench.pretraining.loop import Pass, Trainee
from adaptbench.schema import PretrainRecipe, PretrainStage

Loss = Callable[[PretrainStage, int], Tensor]  # (stage, step) -> a scalar


def new_t5(recipe: PretrainRecipe, seed: int, fast: bool) -> Trainee:
    """A T5 from nothing."""
    model = t5_model(SimpleNamespace(**recipe.size))
    return _model(model, recipe, t5_loss(model, seed), fast)


def new_gpt(recipe: PretrainRecipe, seed: int, fast: bool) -> Trainee:
    """A decoder from nothing."""
    model = gpt_model(SimpleNamespace(**recipe.size))

    def loss(stage: PretrainStage, step: int) -> Tensor:
        assert stage.length is not None
        return model(**corpus.gpt_batch(world.build(), seed, step, stage.batch, stage.length, stage.mixture)).loss

    return _model(model, recipe, loss, fast)


def continued_t5(recipe: PretrainRecipe, seed: int, fast: bool, start: Path) -> Trainee:
    """The language-model adapted T5, to be trained on prompts: how T0 came to be (Sanh et al. 2022)."""
    model = T5ForConditionalGeneration.from_pretrained(start, attn_implementation="eager")
    return _model(model, recipe, t5_loss(model, seed), fast)


def ia3_vectors(recipe: PretrainRecipe, seed: int, fast: bool, start: Path) -> Trainee:
    """(IA)^3 on a frozen T0, trained on the mixture T0 was trained on (paper, section 3.4)."""
    assert recipe.start is not None
    backbone = load_backbone(recipe.start, str(start), "float32", None, "cpu")
    return vectors_on(backbone, recipe, seed, fast, t5_loss(backbone.model, seed))


def vectors_on(backbone: Backbone, recipe: PretrainRecipe, seed: int, fast: bool, loss: Loss) -> Trainee:
    """(IA)^3 on a frozen model, starting from ones."""
    delta = IA3().prepare(backbone, seeds=[seed]).delta
    assert delta is not None
    steps, passes = staged(recipe, fast, loss)
    model = backbone.model
    return Trainee(model, delta, steps, passes, lambda folder: delta.save(folder, run=0), lambda: delta.attached(model))


def t5_loss(model: PreTrainedModel, seed: int) -> Loss:
    """The loss of a stage's mixture of the encoder-decoder's streams."""

    def loss(stage: PretrainStage, step: int) -> Tensor:
        mixture = corpus.T0Mixture(stage.blanks, stage.continuation, stage.prompts)
        return model(**corpus.t0_batch(world.build(), seed, step, stage.batch, mixture)).loss

    return loss


def staged(recipe: PretrainRecipe, fast: bool, loss: Loss) -> tuple[int, Callable[[int], list[Pass]]]:
    """How many steps all stages have, and the one pass of each step."""
    counted = [(stage, stage.fast_steps if fast else stage.steps) for stage in recipe.stages]
    schedule = [stage for stage, steps in counted for _ in range(steps)]
    return len(schedule), lambda step: [Pass(lambda: loss(schedule[step], step))]


def _model(model: PreTrainedModel, recipe: PretrainRecipe, loss: Loss, fast: bool) -> Trainee:
    """A whole model, saved with the embedded world's tokenizer."""
    steps, passes = staged(recipe, fast, loss)

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        build_tokenizer(decoder_only=not model.config.is_encoder_decoder).save_pretrained(folder)

    return Trainee(model, model, steps, passes, save)
