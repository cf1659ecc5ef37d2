"""The bill of a cell before it is run: counted on the meta device, so no weights, no GPU, any size of model.

    python -m experiments.cost model=t0_11b method=ia3 dataset=rte
    python -m experiments.cost model=gpt3_175b method=icl shots=41 format=json
    python -m experiments.cost model=/folder/or/hub-id method=lora method.rank=8 model.dtype=bfloat16

model, method, dataset, recipe (tfew unless given) and shots are those of experiments.run, with every override; a
model is also any folder with a config.json, or a hub id. Further options:

    format=table|json
    lengths=auto|paper|dataset    tokens of a text: the paper's medians (input 93, two choices of 5, demonstration 98),
                                  or the data set's own in the model's tokens; auto: the latter if a data set is named
                                  and its files and the model's tokenizer are on this machine
    input_tokens= choices= choice_tokens= demonstration_tokens=    any of them by hand
    reference=gpt3_175b           the other side of `break_even` (with reference_method=icl, reference_shots=41); where
                                  the cell itself prompts, a tuned one: t0_11b with ia3

`break_even` is the number of predictions from which tuning has cost fewer FLOPs in all than prompting. All FLOPs are
given as counted and by the paper's formulas (arXiv 2205.05638, section 4.2).
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir
from transformers import AutoTokenizer

from adaptbench.config import register_schemas, resolve
from adaptbench.costs import paper
from adaptbench.costs.lengths import Lengths, of_task
from adaptbench.costs.quote import BreakEven, PlannedCell, Quote, break_even, quote, spent
from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import draw
from adaptbench.data.sources import load_task
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone
from adaptbench.models.checks import check_scores
from adaptbench.models.paths import resolve_path
from adaptbench.schema import Config
from adaptbench.tasks import TaskType, task_type
from experiments.bill_text import as_json, table
from experiments.commandline import CONF, check_options, one_clear_line, program_arguments, take_option

BY_HAND = {
    "input_tokens": "input",
    "choices": "choices",
    "choice_tokens": "choice",
    "demonstration_tokens": "demonstration",
}
PROMPTED, TUNED = ("gpt3_175b", "icl"), ("t0_11b", "ia3")  # the two sides of the paper's comparison


def main() -> None:
    with one_clear_line():
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(__doc__)
            return
        check_options(sys.argv[1:])
        style, overrides = take_option(sys.argv[1:], "format", ("table", "json"))
        bill, against = price(overrides)
    print(json.dumps(as_json(bill, against), indent=1) if style == "json" else table(bill, against))


def price(overrides: list[str]) -> tuple[Quote, BreakEven | None]:
    """The bill of the cell that the command line describes, and its break-even where there is one.

    Raises:
        InputError: whatever is wrong with the command line.
    """
    register_schemas()
    kind, overrides = take_option(overrides, "lengths", ("auto", "paper", "dataset"))
    numbers, overrides = take_numbers(overrides, (*BY_HAND, "reference_shots"))
    other_model, overrides = take_text(overrides, "reference")
    other_method, overrides = take_text(overrides, "reference_method")
    named = any(override.startswith("dataset=") for override in overrides)
    config = _composed(overrides)
    asked = task_type(config.dataset)
    backbone = _backbone(config, asked)
    config.method.check_model(backbone)
    task, missing = _task(config, required=kind == "dataset") if named or kind == "dataset" else (None, None)
    lengths = _lengths(config, backbone, task, missing, kind)
    lengths = lengths if task and kind != "paper" else lengths.of_kind(asked)
    lengths = lengths.changed(**{field: numbers[option] for option, field in BY_HAND.items()})
    shots = config.shots or (task.shots if task else config.dataset.shots if named else None) or paper.SHOTS
    rows, development = _rows(shots, task)
    bill = quote(PlannedCell(config.method.sized(backbone), backbone, config.recipe, lengths, rows, asked, development))
    prompts = bill.spent.prompts
    if asked.bare or not (bill.spent.trainable or prompts):
        return bill, None  # nothing that prompting could answer, or neither tuning nor prompting with examples
    default_model, default_method = TUNED if prompts else PROMPTED
    other = _composed([f"model={other_model or default_model}", f"method={other_method or default_method}"])
    other_rows, _ = _rows(numbers["reference_shots"] or other.shots or paper.SHOTS, task)
    rival = spent(PlannedCell(other.method, _backbone(other, asked), other.recipe, lengths, other_rows, asked))
    if rival.prompts == prompts or not (rival.prompts or rival.trainable):
        wanted = "trains something" if prompts else "reads examples in every prompt"
        raise InputError(f"reference_method={other.method.name!r}: expected a method that {wanted}")
    return bill, break_even(rival, bill.spent) if prompts else break_even(bill.spent, rival)


def _rows(shots: int | str, task: TaskData | None) -> tuple[int, int]:
    """Training rows of a run, and development rows.

    Raises:
        InputError: all, of a data set that is not at hand.
    """
    if isinstance(shots, int):
        return shots, (task.held_out or len(task.development)) if task else 0
    if task is None:
        raise InputError(f"shots={shots}: expected a number, since no data set was read (dataset=<name>)")
    few_shot = draw(task, min(task.draws, default=0), shots)
    return len(few_shot.examples), len(few_shot.development)


def take_text(arguments: list[str], name: str) -> tuple[str | None, list[str]]:
    """Take `name=value` out of the arguments."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")]
    return (values[-1] if values else None), [argument for argument in arguments if not argument.startswith(f"{name}=")]


def take_numbers(arguments: list[str], names: tuple[str, ...]) -> tuple[dict[str, int | None], list[str]]:
    """Take whole numbers of at least one out of the arguments."""
    found: dict[str, int | None] = {}
    for name in names:
        text, arguments = take_text(arguments, name)
        if text is not None and (not text.isascii() or not text.isdigit() or int(text) < 1):
            raise InputError(f"{name}={text}: expected a whole number of at least 1")
        found[name] = None if text is None else int(text)
    return found, arguments


def _composed(overrides: list[str]) -> Config:
    with initialize_config_dir(CONF, version_base="1.3"):
        given = ["recipe=tfew", *(part for override in overrides for part in _any_model(override))]
        return resolve(compose("config", program_arguments(given)))


def _any_model(override: str) -> list[str]:
    """`model=` with a folder or hub id is short for `model=local model.path=`."""
    group, _, value = override.partition("=")
    if group != "model" or (Path(CONF) / "model" / f"{value}.yaml").exists():
        return [override]
    if "/" not in value and not (Path(value) / "config.json").is_file():
        return [override]
    text = value.replace("\\", "\\\\").replace("'", "\\'")
    return ["model=local", f"model.path='{text}'", f"model.name='{Path(value).name}'".replace("\\", "\\\\")]


def _backbone(config: Config, task: TaskType) -> Backbone:
    backbone = replace(task.without_weights(config.model), logits_limit=config.model.logits_limit)
    if not task.bare:
        check_scores(backbone.model.config, f"model={config.model.name}")
    return backbone


def _task(config: Config, required: bool) -> tuple[TaskData | None, str | None]:
    """The data set, or why it cannot be read here (an average length is no reason to fail unless it was asked for)."""
    try:
        return load_task(config.dataset), None
    except InputError as error:
        if required:
            raise
        return None, str(error)


def _lengths(config: Config, backbone: Backbone, task: TaskData | None, missing: str | None, kind: str) -> Lengths:
    """The paper's medians or the data set's own means; which of them, and why, stands in `source`."""
    default = Lengths()
    if task is None or kind == "paper":
        return replace(default, source=f"{default.source}: {missing}") if missing else default
    try:
        tokenizer = AutoTokenizer.from_pretrained(resolve_path(config.model.path), local_files_only=kind == "auto")
    except (OSError, ValueError) as error:
        why = f"no tokenizer of {config.model.name} here"
        if kind == "dataset":
            raise InputError(f"lengths=dataset: {why}: {' '.join(str(error).split())[:150]}") from None
        return replace(default, source=f"{default.source}: {why}")
    limit = config.model.max_length or backbone.max_length
    reader = replace(backbone, tokenizer=tokenizer, max_length=limit, overlong=config.model.overlong)
    return of_task(task, reader, config.template)


if __name__ == "__main__":
    main()
