"""The spine: one cell (a method on a model and a dataset, for some seeds), from configuration to records."""

import hashlib
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from adaptbench import provenance
from adaptbench.config import question, run_id, scientific
from adaptbench.costs.ledger import Bill, ledger_for
from adaptbench.data.example import TaskData, fingerprint, wording
from adaptbench.data.fewshot import FewShotSet, draw
from adaptbench.data.prompts import DRAWN, evaluation_prompts
from adaptbench.data.sources import load_task
from adaptbench.data.templates import NotApplicable, Prompt
from adaptbench.errors import InputError
from adaptbench.methods import Adaptation
from adaptbench.preflight import check_output, preflight
from adaptbench.record import SCHEMA, RunRecord, RunStore, now
from adaptbench.schema import Config
from adaptbench.scoring.evaluate import all_readings, evaluate
from adaptbench.scoring.scores import by_template, chance, headline, items, scores, signatures
from adaptbench.tasks import Answer
from adaptbench.tracking import tracker

SKIPPED_NAMED = 100  # bad rows that a record names; it counts all


@dataclass(frozen=True)
class Cell:
    """A cell whose data have been read and checked: everything that can be wrong before a model is loaded."""

    config: Config
    task: TaskData
    prompts: Sequence[Prompt]
    few_shot_sets: Sequence[FewShotSet]
    run_ids: Sequence[str]

    @property
    def missing(self) -> int:
        """Runs without a record yet."""
        store = RunStore(Path(self.config.output))
        return sum(not store.path("records", one, ".json").is_file() for one in self.run_ids)

    @cached_property
    def prompts_id(self) -> str:
        """Names what was evaluated, word for word."""
        return hashlib.sha256(repr(list(self.prompts)).encode()).hexdigest()[:16]


def prepare_cell(config: Config) -> Cell:
    """Read and check a cell's data.

    Raises:
        InputError: whatever is wrong with the input.
    """
    task = load_task(config.dataset)
    prompts = evaluation_prompts(task, config.template, config.limit)
    nothing_to_draw = not config.method.needs_shots and not task.train and not task.draws
    few_shot_sets = [FewShotSet(s, ()) if nothing_to_draw else draw(task, s, config.shots) for s in config.seeds]
    _check_few_shot(task, few_shot_sets, config.template)
    return Cell(config, task, prompts, few_shot_sets, [_run_id(config, task, one) for one in few_shot_sets])


def _run_id(config: Config, task: TaskData, few_shot: FewShotSet) -> str:
    rows = task.evaluation[: config.limit]
    seen = few_shot if config.method.needs_shots else FewShotSet(few_shot.seed, ())  # others never look at the shots
    asked = question(config, few_shot.seed, shots=len(seen.examples), rows=len(rows))
    return run_id(asked, seen.sha256 + fingerprint(rows) + wording(task.templates), SCHEMA)


def _check_few_shot(task: TaskData, few_shot_sets: Sequence[FewShotSet], policy: str) -> None:
    """Render every demonstration in every template it may be drawn in: training must not be the first to see it."""
    templates = task.templates if policy in DRAWN else [task.template(policy)]
    shown = [example for few_shot in few_shot_sets for example in few_shot.examples]
    for example in {(example.origin, example.uid): example for example in shown}.values():
        for template in templates:
            try:
                template.render(example.uid, example.fields, example.origin)
            except NotApplicable:
                if policy not in DRAWN:
                    raise


def run_cell(config: Config, on_run: Callable[[], None] = lambda: None) -> list[RunRecord]:
    """Run what has not been run yet of a cell, and return its records (without those of failed runs).

    Args:
        on_run: called once for every run that has been accounted for.
    """
    cell = prepare_cell(config)
    store = RunStore(Path(config.output))
    track = tracker(config.tracking, store.root)
    records = {one: record for one in cell.run_ids if (record := store.load(one)) is not None}
    waiting = [run for run, one in enumerate(cell.run_ids) if one not in records]
    preflight(config, waiting=len(waiting))
    for record in records.values():  # finished earlier, perhaps without a tracker
        track.log(record)
        on_run()
    for group in _fused_groups(waiting, config):
        check_output(store.root, "output")  # a disk that others have filled since is no reason to train in vain
        for record in _attempt(cell, group, store):
            records[record.run_id] = record
            track.log(record)
        for _ in group:
            on_run()
    return [records[one] for one in cell.run_ids if one in records]


def _fused_groups(runs: list[int], config: Config) -> list[list[int]]:
    """Runs that share a pass: as many as allowed, or each alone where the method cannot fuse."""
    size = (config.max_fused or len(runs) or 1) if config.method.fuses else 1
    return [runs[start : start + size] for start in range(0, len(runs), size)]


def _attempt(cell: Cell, group: list[int], store: RunStore) -> list[RunRecord]:
    """Run a group. What goes wrong is recorded, counted, and tried again next time; other groups go on."""
    try:
        return _run_group(cell, group, store)
    except InputError:
        raise
    except Exception as error:
        for run in group:
            store.write_failure(cell.run_ids[run], _identity(cell, run), error)
        return []


def _run_group(cell: Cell, group: list[int], store: RunStore) -> list[RunRecord]:
    """Adapt, evaluate, bill and record some runs in one pass."""
    config, started = cell.config, now()
    backbone = cell.task.type.load(config.model, config.device)
    few_shot_sets = [cell.few_shot_sets[run] for run in group]

    begun = time.perf_counter()
    adaptation = config.method.adapt(
        backbone, cell.task, few_shot_sets, config.recipe, config.template, config.progress
    )
    adapted = time.perf_counter()
    read = all_readings(adaptation, cell.prompts)
    answers = evaluate(adaptation, cell.prompts, config.eval_batch_size, config.progress, read)
    evaluated = time.perf_counter()

    shared = {
        "seconds.adapt": (adapted - begun) / len(group),
        "seconds.predict": (evaluated - adapted) / len(group) / len(cell.prompts),
        "provenance.started": started,
        "provenance.fused_with": [config.seeds[run] for run in group],
    }
    ledger = ledger_for(config.method, backbone, config.recipe, cell.task.type)
    store.write_prompts(cell.prompts_id, pd.DataFrame([asdict(prompt) for prompt in cell.prompts]))
    records = []
    for index, run in enumerate(group):
        failure = adaptation.log.failures.get(index) or cell.task.type.problem(answers[index])
        if failure:
            store.write_failure(cell.run_ids[run], _identity(cell, run), failure)
            continue
        bill = ledger.bill(adaptation, index, read[index], answers[index])
        truncated = len({reading.prompt for reading in read[index] if reading.encoded.truncated})
        values = _record(cell, run, adaptation, index, answers[index], bill, truncated)
        values["storage.bytes"] = _store_adapter(cell, adaptation, index, run, store)
        store.write_predictions(cell.run_ids[run], cell.task.type.table(answers[index]))
        records.append(RunRecord({**values, **shared, "provenance.finished": now()}))
    for record in records:  # last and together: a record says that its whole run is on disk
        store.write(record)
    return records


def _identity(cell: Cell, run: int) -> dict[str, Any]:
    config = cell.config
    return {
        "run_id": cell.run_ids[run],
        "schema": SCHEMA,
        "experiment": config.name,
        "method": config.method.name,
        "model": config.model.name,
        "dataset": config.dataset.name,
        "template": config.template,
        "seed": config.seeds[run],
    }


def _record(
    cell: Cell,
    run: int,
    adaptation: Adaptation,
    index: int,
    answers: Sequence[Answer],
    bill: Bill,
    truncated: int,
) -> dict[str, Any]:
    backbone, few_shot = adaptation.backbone, cell.few_shot_sets[run]
    contexts, task, metric = adaptation.contexts, cell.task.type, headline(cell.task)
    by_metric = scores(task, answers, cell.config.norm)  # null where the evaluated rows have no labels
    return {
        **_identity(cell, run),
        "shots": 0 if adaptation.same_for_all_runs else len(few_shot.examples),
        "task": task.kind,
        "metric": metric.name,
        "evaluation_split": cell.task.evaluation_split,
        "score": by_metric[metric.name],
        **{f"scores.{name}": value for name, value in by_metric.items()},
        "score_by_template": by_template(metric, task, answers, cell.config.norm),
        "chance": chance(metric, task, cell.prompts),
        "n_eval": items(answers),
        "n_truncated": truncated,
        "n_skipped": len(cell.task.skipped),  # bad rows of all the data set's files
        "params.trainable": adaptation.trainable,
        "params.delta": adaptation.trainable_without_head,
        "params.total": backbone.parameters_total,
        "flops.adapt.measured": bill.flops_adapt,
        "flops.adapt.paper": bill.flops_adapt_paper,
        "flops.predict.measured": bill.flops_predict,
        "flops.predict.paper": bill.flops_predict_paper,
        "flops.predict.merged": bill.flops_predict_merged,
        "memory.adapt.peak_bytes": bill.memory_adapt.peak if bill.memory_adapt else None,
        "memory.predict.peak_bytes": bill.memory_predict.peak,
        "memory.adapt.items": asdict(bill.memory_adapt) if bill.memory_adapt else None,
        "memory.predict.items": asdict(bill.memory_predict),
        "memory.kv_cache_bytes": bill.kv_cache,
        "provenance.config": scientific(cell.config, few_shot.seed),
        "provenance.versions": provenance.versions(),
        "provenance.git": provenance.git(),
        "provenance.hardware": provenance.hardware(),
        "provenance.device": str(backbone.device),
        "provenance.dtype": str(backbone.dtype).removeprefix("torch."),
        "provenance.data_sha256": {
            "few_shot": few_shot.sha256,
            "evaluation": fingerprint(cell.task.evaluation[: cell.config.limit]),
        },
        "provenance.skipped_rows": list(cell.task.skipped[:SKIPPED_NAMED]),
        "provenance.prompts": cell.prompts_id,
        "provenance.demonstrations": contexts[index].demonstrations if contexts is not None else None,
        "provenance.trained_parameters": adaptation.log.trained_parameters,
        "provenance.halvings": adaptation.log.halvings,
        "provenance.slices": adaptation.log.slices,
        "provenance.signatures": signatures(task, answers),
        "provenance.final_loss": adaptation.log.losses[-1][index] if adaptation.log.losses else None,
    }


def _store_adapter(cell: Cell, adaptation: Adaptation, index: int, run: int, store: RunStore) -> int:
    """Write what a user would keep, and return its size in bytes."""
    folder = store.adapter_folder(cell.run_ids[run])
    shutil.rmtree(folder, ignore_errors=True)
    size = cell.config.method.save(adaptation, folder, index)
    if not cell.config.keep_adapters or size == 0:
        shutil.rmtree(folder)
    return size
