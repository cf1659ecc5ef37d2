"""The spine: one cell (a method on a model and a dataset, for some seeds), from configuration to records."""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from adaptbench import provenance
from adaptbench.cell import PreparedCell
from adaptbench.config import scientific
from adaptbench.costs.ledger import Bill, ledger_for
from adaptbench.data.example import fingerprint
from adaptbench.errors import InputError
from adaptbench.methods import Adaptation
from adaptbench.methods.budget import non_embedding
from adaptbench.models.gguf import origin_of
from adaptbench.models.paths import resolve_path
from adaptbench.preflight import check_output, preflight
from adaptbench.pretraining.provenance import pretraining_of, stages
from adaptbench.record import SCHEMA, RunRecord, RunStore, now
from adaptbench.schema import Config
from adaptbench.scoring.evaluate import all_readings, evaluate
from adaptbench.scoring.forgetting import forgetting
from adaptbench.scoring.scores import by_template, chance, headline, items, scores, signatures
from adaptbench.tasks import Answer
from adaptbench.tracking import tracker
from adaptbench.training.log import TrainingLog

SKIPPED_NAMED = 100  # bad rows that a record names; it counts all


def run_cell(cell: PreparedCell, on_run: Callable[[], None] = lambda: None) -> list[RunRecord]:
    """Run what has not been run yet of a cell, and return its records (without those of failed runs).

    Args:
        on_run: called once for every run that has been accounted for.
    """
    config = cell.config
    store = RunStore(Path(config.output))
    track = tracker(config.tracking, store.root)
    records = {run_id: record for run_id in cell.run_ids if (record := store.load(run_id)) is not None}
    waiting = [run for run, run_id in enumerate(cell.run_ids) if run_id not in records]
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
    return [records[run_id] for run_id in cell.run_ids if run_id in records]


def _fused_groups(runs: list[int], config: Config) -> list[list[int]]:
    """Runs that share a pass: as many as allowed, or each alone where the method cannot fuse."""
    size = (config.max_fused or len(runs) or 1) if config.method.fuses else 1
    return [runs[start : start + size] for start in range(0, len(runs), size)]


def _attempt(cell: PreparedCell, group: list[int], store: RunStore) -> list[RunRecord]:
    """Run a group. What goes wrong is recorded, counted, and tried again next time; other groups go on."""
    try:
        return _run_group(cell, group, store)
    except InputError:
        raise
    except Exception as error:
        for run in group:
            store.write_failure(cell.run_ids[run], _identity(cell, run), error)
        return []


def _run_group(cell: PreparedCell, group: list[int], store: RunStore) -> list[RunRecord]:
    """Adapt, evaluate, bill and record some runs in one pass."""
    config, started = cell.config, now()
    backbone = cell.task.type.load(config.model, config.device)
    cell = replace(cell, config=(config := replace(config, method=config.method.sized(backbone))))
    few_shot_sets = [cell.few_shot_sets[run] for run in group]

    begun = time.perf_counter()
    adaptation = config.method.adapt(
        backbone, cell.task, few_shot_sets, config.recipe, config.template, config.progress
    )
    adapted = time.perf_counter()
    read = all_readings(adaptation, cell.prompts)
    answers = evaluate(
        adaptation, cell.prompts, config.eval_batch_size, config.progress, read, tokens=config.eval_batch_tokens
    )
    evaluated = time.perf_counter()
    forgotten: list[float | None] = [None] * len(group)
    if config.forgetting:
        forgotten = forgetting(adaptation, backbone, config.model.path, config.eval_batch_size)

    shared = {
        "seconds.adapt": (adapted - begun) / len(group),
        "seconds.predict": (evaluated - adapted) / len(group) / len(cell.prompts),
        "provenance.started": started,
        "provenance.fused_with": [config.seeds[run] for run in group],
        **_pretraining(config.model.path),
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
        values["forgetting.nats_per_token"] = forgotten[index]
        values["storage.bytes"] = _store_adapter(cell, adaptation, index, run, store)
        store.write_predictions(cell.run_ids[run], cell.task.type.table(answers[index]))
        records.append(RunRecord({**values, **shared, "provenance.finished": now()}))
    for record in records:  # last and together: a record says that its whole run is on disk
        store.write(record)
    return records


def _identity(cell: PreparedCell, run: int) -> dict[str, Any]:
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
    cell: PreparedCell,
    run: int,
    adaptation: Adaptation,
    index: int,
    answers: Sequence[Answer],
    bill: Bill,
    truncated: int,
) -> dict[str, Any]:
    backbone, few_shot = adaptation.backbone, cell.few_shot_sets[run]
    contexts, task, metric = adaptation.contexts, cell.task.type, headline(cell.task)
    best = adaptation.log.best[index] if adaptation.log.best else None
    by_metric = scores(task, answers, cell.config.norm)  # null where the evaluated rows have no labels
    return {
        **_identity(cell, run),
        "shots": 0 if adaptation.same_for_all_runs else len(few_shot.examples),
        "task": task.kind,
        "metric": metric.name,
        "evaluation_split": cell.task.evaluation_split,
        "score": by_metric[metric.name],
        **{f"scores.{name}": value for name, value in by_metric.items()},
        **{f"answers.{name}": value for name, value in task.described(answers).items()},
        "score_by_template": by_template(metric, task, answers, cell.config.norm),
        "chance": chance(metric, task, cell.prompts),
        "n_eval": items(answers),
        "n_truncated": truncated,
        "n_skipped": len(cell.task.skipped),  # bad rows of all the data set's files
        "params.trainable": adaptation.trainable,
        "params.stored": adaptation.trainable_without_head,
        "params.head": adaptation.of_head,
        "params.trained": _trained(adaptation),
        "params.served": 0 if cell.config.method.merges or adaptation.tuned else adaptation.trainable_without_head,
        "params.total": backbone.parameters_total,
        "params.non_embedding": non_embedding(backbone),
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
        "provenance.weights": origin_of(resolve_path(cell.config.model.path)),
        "provenance.data_sha256": {
            "few_shot": few_shot.sha256,
            "evaluation": fingerprint(cell.task.evaluation[: cell.config.limit]),
        },
        "provenance.skipped_rows": list(cell.task.skipped[:SKIPPED_NAMED]),
        "provenance.dropped_rows": dict(cell.task.dropped),
        "provenance.prompts": cell.prompts_id,
        "provenance.demonstrations": contexts[index].demonstrations if contexts is not None else None,
        "development.split": cell.task.development_split if best else None,
        "development.rows": len(few_shot.development) if best else None,
        "development.score": best.score if best and best.score is not None and math.isfinite(best.score) else None,
        "development.step": best.step if best else None,
        "development.looks": best.looks if best else None,
        "steps": len(adaptation.log.shapes[index]) if adaptation.log.shapes else 0,
        "provenance.trained_parameters": adaptation.log.trained_parameters,
        "provenance.halvings": adaptation.log.halvings,
        "provenance.slices": adaptation.log.slices,
        "provenance.signatures": signatures(task, answers),
        "provenance.selected": _selected(adaptation.log, index),
        "provenance.final_loss": adaptation.log.final_losses.get(index),
    }


def _pretraining(path: str) -> dict[str, Any]:
    """What the model's pre-training took, as far as it was done here: all its stages; null where there was none."""
    last = pretraining_of(path)
    whole = {name: sum(stage[name] for stage in stages(last)) if last else None for name in ("flops", "seconds")}
    return {**{f"pretraining.{name}": value for name, value in whole.items()}, "provenance.pretraining": last}


def _trained(adaptation: Adaptation) -> int:
    """Parameters of one run that followed gradients, without the head's: those, too, that only helped the training."""
    return max(0, (adaptation.log.trained_parameters or 0) - adaptation.of_head)


def _selected(log: TrainingLog, index: int) -> dict[str, Any] | None:
    """The hyper-parameters that a run chose on its shots, and every candidate's log-loss there; None: it diverged."""
    if not log.selected:
        return None
    nats = {str(rate): value if math.isfinite(value) else None for rate, value in log.nats[index].items()}
    return {**log.selected[index], "nats": nats}


def _store_adapter(cell: PreparedCell, adaptation: Adaptation, index: int, run: int, store: RunStore) -> int:
    """Write what a user would keep, and return its size in bytes."""
    folder = store.adapter_folder(cell.run_ids[run])
    shutil.rmtree(folder, ignore_errors=True)
    size = cell.config.method.save(adaptation, folder, index)
    if not cell.config.keep_adapters or size == 0:
        shutil.rmtree(folder)
    return size
