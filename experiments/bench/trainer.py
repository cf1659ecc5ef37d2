"""Full fine-tuning of an encoder beside transformers' own Trainer: same rows and hyper-parameters, scores and seconds.

    python -m experiments.bench.trainer --datasets glue_mrpc glue_cola glue_stsb --shots 2500 --seeds 42 1024 0

Both sides train in turn in one process, in single precision, on the same training rows of every seed, and keep the last
state; both are scored on the same rows by the data set's metric. They differ in their heads' draws (the Trainer starts
from the checkpoint's pooler where there is one), in the order of rows, and in dropout. Needs accelerate (a dependency
of the Trainer).
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from torch import Tensor
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments

from adaptbench.cell import PreparedCell, prepare_cell
from adaptbench.config import register_schemas, resolve
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import Prompt
from adaptbench.data.texts import Text, pad_texts
from adaptbench.errors import InputError
from adaptbench.models.encoders import Encoder
from adaptbench.models.paths import resolve_path
from adaptbench.preflight import check_output
from adaptbench.scoring.evaluate import evaluate
from adaptbench.scoring.scores import classes, headline, score
from adaptbench.tasks import TaskType
from adaptbench.tasks.classification import ClassScores
from experiments.bench import RESULTS, write_results
from experiments.commandline import CONF, Options, at_least_one, one_clear_line, plain_name, program_arguments

ROWS = 64  # of a pass in evaluation, on both sides


def cell_of(model: str, dataset: str, shots: str, seeds: Sequence[int], more: Sequence[str]) -> PreparedCell:
    """A data set with its rows, trained to the end without a look at development rows."""
    fixed = [f"model={model}", "model.dtype=float32", "method=full_ft", f"dataset={dataset}", f"shots={shots}"]
    fixed += ["recipe=unipelt_pt", "recipe.patience=null", "dataset.development=null", f"seeds={[*seeds]}"]
    fixed += ["model.overlong=truncate", "device=cpu"]
    with initialize_config_dir(CONF, version_base="1.3"):
        cell = prepare_cell(resolve(compose("config", program_arguments([*fixed, *more]))))
    if cell.task.type.kind != "classification":
        raise InputError(f"--datasets {dataset}: expected a task of classification")
    return cell


def ours(cell: PreparedCell, encoder: Encoder, run: int) -> list[ClassScores]:
    """Answers to the cell's prompts after full fine-tuning here."""
    adaptation = cell.config.method.adapt(encoder, cell.task, [cell.few_shot_sets[run]], cell.config.recipe)
    return evaluate(adaptation, cell.prompts, ROWS)[0]


def theirs(cell: PreparedCell, encoder: Encoder, run: int) -> list[ClassScores]:
    """The same by the Trainer."""
    task, recipe, few_shot = cell.task.type, cell.config.recipe, cell.few_shot_sets[run]
    trained_on = evaluation_prompts(replace(cell.task, evaluation=few_shot.examples), "random")
    torch.manual_seed(few_shot.seed)
    model = AutoModelForSequenceClassification.from_pretrained(
        resolve_path(cell.config.model.path), num_labels=task.options(cell.prompts[0]), dtype=torch.float32
    )
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            per_device_train_batch_size=recipe.batch_size,
            per_device_eval_batch_size=ROWS,
            learning_rate=cell.config.method.learning_rate,
            num_train_epochs=recipe.epochs or 1.0,
            warmup_steps=recipe.warmup_fraction,  # a share, below one
            max_grad_norm=recipe.clip_norm,
            weight_decay=recipe.weight_decay,
            lr_scheduler_type="linear",
            optim="adamw_torch",
            seed=few_shot.seed,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            use_cpu=True,
            remove_unused_columns=False,
            disable_tqdm=True,
        )
        rows = _Rows(task, encoder, trained_on)
        trainer = Trainer(model, arguments, train_dataset=rows, data_collator=rows.batch)
        trainer.train()
        logits = trainer.predict(_Rows(task, encoder, cell.prompts)).predictions
    return [ClassScores(prompt, tuple(map(float, row))) for prompt, row in zip(cell.prompts, logits, strict=True)]


class _Rows(torch.utils.data.Dataset):
    """Prompts as the Trainer takes them, of the tokens that both sides read."""

    def __init__(self, task: TaskType, encoder: Encoder, prompts: Sequence[Prompt]):
        self._task, self._encoder = task, encoder
        self._rows = [(task.encode(encoder, prompt), prompt.label) for prompt in prompts]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        encoded, label = self._rows[index]
        return {"text": Text(encoded.source, getattr(encoded, "types", ())), "labels": label}

    def batch(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        """Rows padded to one batch."""
        ids, mask, types = pad_texts([row["text"] for row in rows], self._encoder.pad_id)
        kind = torch.float32 if self._task.answers == "number" else torch.long
        found = {"input_ids": ids, "attention_mask": mask.long()}
        if self._encoder.token_types:
            found["token_type_ids"] = types
        return {**found, "labels": torch.tensor([row["labels"] for row in rows], dtype=kind)}


def compare(cell: PreparedCell) -> dict[str, Any]:
    """Both sides on every seed: scores, their means and spread, and how much longer the Trainer takes."""
    encoder = cell.task.type.load(cell.config.model, "cpu")
    assert isinstance(encoder, Encoder)
    metric, number = headline(cell.task), classes(cell.task.type, cell.prompts)
    scores: dict[str, list[float | None]] = {"ours": [], "trainer": []}
    seconds: dict[str, list[float]] = {"ours": [], "trainer": []}
    for run, seed in enumerate(cell.config.seeds):
        for side, answer in (("ours", ours), ("trainer", theirs)):
            begun = time.perf_counter()
            answers = answer(cell, encoder, run)
            seconds[side].append(time.perf_counter() - begun)
            scores[side].append(score(metric, cell.task.type, answers, cell.task.norm, number))
        print(f"{cell.task.name} seed {seed}: ours {scores['ours'][-1]:.4f}, Trainer {scores['trainer'][-1]:.4f}, "
              f"{seconds['trainer'][-1] / seconds['ours'][-1]:.2f}x", flush=True)  # fmt: skip
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["trainer"], strict=True)]
    return {
        "dataset": cell.task.name,
        "metric": metric.name,
        "training_rows": len(cell.few_shot_sets[0].examples),
        "evaluated_rows": len(cell.prompts),
        "epochs": cell.config.recipe.epochs,
        "learning_rate": cell.config.method.learning_rate,
        "seeds": list(cell.config.seeds),
        "scores": scores,
        "mean": {side: statistics.mean(values) for side, values in scores.items()},  # type: ignore[type-var]
        "sd": {side: statistics.stdev(values) if len(values) > 1 else None for side, values in scores.items()},  # type: ignore[type-var]
        "speedup": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "seconds": seconds,
    }


def main() -> None:
    parser = Options(prog="python -m experiments.bench.trainer", description=__doc__)
    parser.add_argument("--model", default="minilm_l6", help="an option of conf/model (default %(default)s)")
    parser.add_argument(
        "--datasets", nargs="+", default=["glue_mrpc", "glue_cola", "glue_stsb"], help="of conf/dataset"
    )
    parser.add_argument("--shots", default="all", help="training rows of every seed (default %(default)s)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42, 1024, 0])
    parser.add_argument("--overrides", nargs="*", default=["recipe.epochs=3", "method.learning_rate=1e-4"])
    parser.add_argument("--name", type=plain_name, default="trainer", help="of the result file, <folder>/<name>.json")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results go (default %(default)s)")
    parser.add_argument("--threads", type=at_least_one, default=1, help="of the CPU (default %(default)s)")
    with one_clear_line():
        given = parser.parse_args()
        check_output(given.folder, "--folder")
        if find_spec("accelerate") is None:
            raise InputError("the Trainer of transformers needs accelerate: pip install accelerate")
        register_schemas()
        cells = [cell_of(given.model, name, given.shots, given.seeds, given.overrides) for name in given.datasets]
    torch.set_num_threads(given.threads)
    results = []
    for cell in cells:
        results.append(compare(cell))
        write_results(given.folder, given.name, {"results": results, "threads": given.threads})


if __name__ == "__main__":
    main()
