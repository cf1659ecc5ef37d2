"""Continued pre-training (Gururangan et al. 2020, arXiv 2004.10964): of any encoder or decoder, on unlabelled text.

On a domain's corpus (DAPT) or on a task's own training rows (TAPT). What comes out is a model folder like any other,
with its head; what it cost stands in its `provenance.json`.
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as hf_logging

from adaptbench.errors import InputError, one_line
from adaptbench.models.at_hand import check_vocabulary
from adaptbench.models.backbone import load_config, own_limit, pick_device, pinned_to
from adaptbench.models.encoders import COUNTED_FROM_PADDING
from adaptbench.models.identity import content_id
from adaptbench.models.paths import resolve_path
from adaptbench.pretraining.bill import FlopsOfPasses, bill, memory_peak
from adaptbench.pretraining.corpora import Blocks, Cells, Corpus, cut, read_corpus
from adaptbench.pretraining.held_out import digest_lines, digests_read, made_for
from adaptbench.pretraining.loop import Pass, Trainee
from adaptbench.pretraining.objectives import Causal, Masked, Objective, Question, collate, summed_loss
from adaptbench.pretraining.provenance import DIGESTS, check_provenance, pretraining_of
from adaptbench.schema import Config, ModelConfig, PretrainRecipe

WIDTHS = 8  # passes are padded to multiples of it
OBJECTIVES = ("mlm", "clm")
SCHEDULES = ("cosine", "linear")


@dataclass(frozen=True)
class Start:
    """The model that pre-training continues from, with the head that its objective needs."""

    name: str
    model: PreTrainedModel
    tokenizer: Any
    objective: Objective
    weights: str | None  # which, by content
    new_head: bool  # its files have none
    before: dict[str, Any] | None  # the pre-training that was continued to make it
    read: frozenset[str] = frozenset()  # hashes of what it read then


def continue_pretraining(
    name: str, recipe: PretrainRecipe, cells: Cells, seed: int, fast: bool, autocast: bool
) -> Trainee:
    """A model and what it reads, ready to be trained.

    Args:
        name: the recipe's, for messages.
        fast: a miniature training, for tests.

    Raises:
        InputError: whatever is wrong with the settings, the model or the corpus.
    """
    check_settings(name, recipe)
    corpus = read_corpus(recipe, cells)
    start = load_start(name, recipe, cells.start, seed)
    check_length(name, recipe.length, start)
    blocks = cut(corpus, start.tokenizer, recipe.length, recipe.packed, start.objective.causal)
    reading = Reading(start, blocks, recipe, seed)
    peak = memory_peak(start.model, reading.longest(), autocast)
    counter = FlopsOfPasses(start.model, start.objective)
    read = digest_lines(start.read | corpus.digests)
    facts = _facts(start, corpus, blocks, recipe, cells, read)
    return Trainee(
        start.model,
        start.model,
        number_of_steps(recipe, blocks, fast),
        reading.passes,
        save=lambda folder: _save(start, read, folder),
        identity={"start": start.weights, "corpus": blocks.sha256},
        facts=lambda state: {**facts, "bill": bill(counter, state, peak)},
    )


def check_settings(name: str, recipe: PretrainRecipe) -> None:
    """Everything that can be wrong with a recipe by itself.

    Raises:
        InputError: names the setting.
    """
    named = f"recipes.{name}"
    sources = [recipe.corpus, recipe.files, recipe.hub]
    if sum(map(bool, sources)) != 1:
        raise InputError(
            f"{named}: expected one of corpus=[<a data set of conf/dataset>], files=[<path>] and hub=<id>, found "
            f"{sum(map(bool, sources)) or 'none'}"
        )
    if (recipe.steps is None) == (recipe.epochs is None):
        found = f"steps={recipe.steps} and epochs={recipe.epochs}"
        raise InputError(f"{named}: expected steps or epochs, found {'neither' if recipe.steps is None else found}")
    if recipe.objective not in (None, *OBJECTIVES):
        raise InputError(f"{named}.objective={recipe.objective!r}: expected one of {', '.join(OBJECTIVES)}, or null")
    if recipe.schedule not in SCHEDULES:
        raise InputError(f"{named}.schedule={recipe.schedule!r}: expected one of {', '.join(SCHEDULES)}")
    for field in ("steps", "epochs", "batch", "rows_per_pass", "length", "lr", "mask"):
        value = getattr(recipe, field)
        if value is not None and value <= 0:
            raise InputError(f"{named}.{field}={value}: expected more than 0")
    for field in ("mask", "warmup_fraction"):
        if (share := getattr(recipe, field)) is not None and share > 1:
            raise InputError(f"{named}.{field}={share}: expected at most 1")


def objective_of(config: Any, wanted: str | None, named: str) -> str:
    """What a model can be asked, known from its configuration alone.

    Args:
        wanted: the objective asked for; None: what the model is made for.

    Raises:
        InputError: an encoder-decoder, a model without such a head, or one that reads the other way.
    """
    kind = config.model_type
    if config.is_encoder_decoder:
        raise InputError(f"{named}: {kind} is an encoder-decoder, expected an encoder or a decoder-only model")
    reads_both_ways = type(config) in AutoModelForMaskedLM._model_mapping and not getattr(config, "is_decoder", False)
    if not reads_both_ways and type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(f"{named}: transformers has no language model of type {kind}")
    own = "mlm" if reads_both_ways else "clm"
    if wanted == "mlm" and own == "clm":
        raise InputError(
            f"{named}: objective=mlm needs a mask token, and {kind} is a decoder without one; expected clm"
        )
    if wanted == "clm" and own == "mlm":
        raise InputError(f"{named}: objective=clm: {kind} reads in both directions, expected mlm")
    return own


def load_start(name: str, recipe: PretrainRecipe, config: Config, seed: int) -> Start:
    """The model with its head, trainable in float32; a head that its files lack is drawn from `seed`.

    Raises:
        InputError: nothing loadable, weights that are incomplete, or a model that cannot be asked this.
    """
    model_config = config.model
    named = f"recipes.{name}.start={model_config.name}"
    shape, source, weights = _found(model_config)
    before = pretraining_of(model_config.path)
    read = frozenset(digests_read(model_config.path, before) if before else ())
    kind = objective_of(shape, recipe.objective, named)
    if model_config.quantization != "none":
        raise InputError(f"{named}: model.quantization={model_config.quantization} cannot be trained, expected none")
    pinned = pinned_to(model_config.path, weights)
    auto: Any = Masked.auto if kind == Masked.name else Causal.auto
    torch.manual_seed(seed)
    verbosity = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # a new head is expected, and its provenance says so
    hf_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **pinned)
        model, found = auto.from_pretrained(source, dtype=torch.float32, output_loading_info=True, **pinned)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise InputError(f"{named}: {model_config.path} cannot be loaded: {one_line(error)}") from error
    finally:
        hf_logging.set_verbosity(verbosity)
    check_vocabulary(tokenizer, named)
    inside = f"{model.base_model_prefix}."
    if absent := sorted(key for key in found["missing_keys"] if key.startswith(inside)):
        raise InputError(f"{named}: its files have no weights for {', '.join(absent[:3])}")
    objective = Masked.of(tokenizer, recipe.mask, named) if kind == Masked.name else Causal()
    return Start(
        model_config.name,
        model.to(pick_device(config.device)),
        tokenizer,
        objective,
        weights,
        new_head=bool(found["missing_keys"]),
        before=before,
        read=read,
    )


def check_start(name: str, recipe: PretrainRecipe, config: Config) -> None:
    """What can be known of a start without loading it.

    Raises:
        InputError: nothing there, or a model that cannot be asked this.
    """
    shape, _, _ = _found(config.model)
    objective_of(shape, recipe.objective, f"recipes.{name}.start={config.model.name}")


def _found(model: ModelConfig) -> tuple[Any, str, str | None]:
    """A model's configuration, its folder or hub id, and the content of its weights."""
    source = resolve_path(model.path)
    check_provenance(model)
    weights = content_id(source, model.revision)
    return load_config(model.path, **pinned_to(model.path, weights)), source, weights


def check_length(name: str, length: int, start: Start) -> None:
    """Refuse blocks that are longer than the model can read.

    Raises:
        InputError: says how long they may be.
    """
    config: Any = start.model.config
    limit = own_limit(config, start.tokenizer)
    if config.model_type in COUNTED_FROM_PADDING:
        limit -= config.pad_token_id + 1
    limit = min(limit, start.tokenizer.model_max_length)
    if length > limit:
        raise InputError(f"recipes.{name}.length={length}: {start.name} reads at most {limit} tokens")


def number_of_steps(recipe: PretrainRecipe, blocks: Blocks, fast: bool) -> int:
    """As many as the recipe says, or as its epochs take."""
    if recipe.epochs is not None:
        steps = math.ceil(recipe.epochs * blocks.steps_of_an_epoch(recipe.batch))
    else:
        assert recipe.steps is not None
        steps = recipe.steps
    return min(steps, recipe.fast_steps) if fast else steps


@dataclass(frozen=True)
class Reading:
    """What is read at which step, in passes of some rows each."""

    start: Start
    blocks: Blocks
    recipe: PretrainRecipe
    seed: int

    @property
    def rows_per_pass(self) -> int:
        return self.recipe.rows_per_pass or self.recipe.batch

    def passes(self, step: int) -> list[Pass]:
        """The passes of a step, of rows of similar length; its loss is the mean over all predicted tokens."""
        rows = self.blocks.batch(self.seed, step, self.recipe.batch)
        of_dropout, of_masks = np.random.SeedSequence((self.seed, step)).spawn(2)
        torch.manual_seed(int(of_dropout.generate_state(1)[0]))
        self.start.model.train()
        questions = self.start.objective.ask(rows, np.random.default_rng(of_masks))
        questions = [question for question in questions if len(question.places)]
        questions.sort(key=lambda question: len(question.ids), reverse=True)
        answers = sum(len(question.answers) for question in questions)
        size = self.rows_per_pass
        return [self._pass(questions[begun : begun + size], answers) for begun in range(0, len(questions), size)]

    def _pass(self, questions: Sequence[Question], answers: int) -> Pass:
        width = self.width(max(len(question.ids) for question in questions))
        work: dict[Hashable, int] = {
            ("pass", len(questions), width): 1,
            "rows": len(questions),
            "tokens": sum(len(question.ids) for question in questions),
            "predicted": sum(len(question.answers) for question in questions),
        }
        return Pass(lambda: self._loss(questions, width) / answers, work)

    def _loss(self, questions: Sequence[Question], width: int) -> torch.Tensor:
        model = self.start.model
        pad = self.start.tokenizer.pad_token_id or 0
        return summed_loss(model, collate(questions, pad, width, model.device))

    def width(self, longest: int) -> int:
        """To how many tokens a pass is padded."""
        return min(self.recipe.length, -(-longest // WIDTHS) * WIDTHS)

    def longest(self) -> list[Callable[[], torch.Tensor]]:
        """The losses of two passes, or of the only one of a step, of the longest rows there are."""
        size = min(self.rows_per_pass, self.recipe.batch, len(self.blocks))
        rows = [self.blocks[block] for block in np.argsort(-self.blocks.lengths, kind="stable")[:size].tolist()]
        questions = self.start.objective.ask(rows, np.random.default_rng(self.seed))
        width = self.width(max(map(len, rows)))
        passes = 2 if size < min(self.recipe.batch, len(self.blocks)) else 1
        return [lambda: self._loss(questions, width)] * passes


def _save(start: Start, read: bytes, folder: Path) -> None:
    start.model.save_pretrained(folder, max_shard_size="1TB")
    start.tokenizer.save_pretrained(folder)
    (folder / DIGESTS).write_bytes(read)


def _facts(
    start: Start, corpus: Corpus, blocks: Blocks, recipe: PretrainRecipe, cells: Cells, read: bytes
) -> dict[str, Any]:
    """What was trained on what, and what it was not trained on."""
    return {
        "objective": start.objective.name,
        "start": {"model": start.name, "weights": start.weights, "pretraining": start.before},
        "head": "new" if start.new_head else "the start's",
        "corpus": {
            "names": list(corpus.names),
            "column": recipe.column,
            "texts": len(corpus.texts),
            "left_out": len(corpus.left_out),
            "left_out_sha256": corpus.left_out_sha256,
            "made_for": made_for(cells.tasks),
            "blocks": len(blocks),
            "tokens": int(blocks.lengths.sum()),
            "sha256": blocks.sha256,
            "digests_sha256": hashlib.sha256(read).hexdigest(),
        },
    }
