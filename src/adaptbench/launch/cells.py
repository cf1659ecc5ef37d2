"""Run one cell of an experiment, composed or already prepared, and return what came of it."""

from pathlib import Path

from omegaconf import DictConfig

from adaptbench.cell import PreparedCell, prepare_cell
from adaptbench.config import resolve
from adaptbench.costs.estimate import estimate
from adaptbench.errors import InputError
from adaptbench.launch.outcome import Outcome
from adaptbench.launch.progress import cell_progress, warn_once
from adaptbench.record import RunRecord, RunStore
from adaptbench.runner import run_cell
from adaptbench.tracking import out_of_reach


def run_composed(composed: DictConfig) -> Outcome:
    """Resolve, check and run one cell: what a launcher calls wherever it runs the cell."""
    try:
        return run_prepared(prepare_cell(resolve(composed)))
    except InputError as error:
        return Outcome(refusals=[str(error)])


def run_prepared(cell: PreparedCell) -> Outcome:
    """Run a cell whose data have been read; of a dry run, price it. Bad input that is found only now is a refusal."""
    config = cell.config
    try:
        if config.dry_run:
            return Outcome(bills=[estimate(cell)])
        with cell_progress(config) as (advance, say):
            records = run_cell(cell, advance)
            for tracker, why in out_of_reach.items():
                warn_once(f"warning: {tracker}: {why}; runs go on, and the next call mirrors what is missing")
            for record in records:
                say(_line(record))
    except InputError as error:
        return Outcome(refusals=[str(error)])
    return Outcome(*recorded_and_missing(cell), unreached=dict(out_of_reach))


def recorded_and_missing(cell: PreparedCell) -> tuple[list[str], list[str]]:
    """Paths of the records that a cell has, and of the files that say why its other runs have none."""
    store = RunStore(Path(cell.config.output))
    records = [store.path("records", run_id, ".json") for run_id in cell.run_ids]
    failures = [store.path("failures", run_id, ".json") for run_id in cell.run_ids]
    return (
        [str(record) for record in records if record.is_file()],
        [str(failure) for record, failure in zip(records, failures, strict=True) if not record.is_file()],
    )


def _line(record: RunRecord) -> str:
    score = "answered, no labels to score by" if record["score"] is None else f"{record['score']:.3f}"
    return f"{record['method']} · {record['model']} · {record['dataset']} · seed {record['seed']}: {score}"
