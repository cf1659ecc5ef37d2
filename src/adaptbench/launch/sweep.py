"""Run the cells of a sweep, here or wherever a launcher takes them; the folder of results has the last word."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from adaptbench.cell import PreparedCell
from adaptbench.errors import one_line
from adaptbench.launch.cells import recorded_and_missing, run_prepared
from adaptbench.launch.outcome import Outcome, together
from adaptbench.launch.progress import announce, sweep_progress
from adaptbench.launch.workers import run_in_parallel


def run_here(cells: Sequence[PreparedCell], workers: int) -> Outcome:
    """Run prepared cells on this machine, in `workers` processes, under one progress bar."""
    configs = [cell.config for cell in cells]
    runs, show = sum(len(config.seeds) for config in configs), all(config.progress for config in configs)
    waiting = [cell for cell in cells if not _is_done(cell)]
    if show:
        announce(configs, sum(cell.missing for cell in cells))
    with sweep_progress(runs, show) as bar:
        bar.update(runs - sum(len(cell.config.seeds) for cell in waiting))
        if workers > 1 and waiting:
            outcomes = []
            for cell, outcome in run_in_parallel(waiting, workers):
                bar.update(len(cell.config.seeds))
                outcomes.append(outcome)
        else:
            outcomes = [run_prepared(cell) for cell in waiting]
    return _confirmed(together(outcomes), cells)


def run_elsewhere(cells: Sequence[PreparedCell], launch: Callable[[], Iterable[Outcome]]) -> Outcome:
    """Let a launcher run cells where it likes. What it loses of them is found missing afterwards.

    Args:
        launch: returns when all have ended; raises whatever a launcher raises for a job that was lost.
    """
    outcomes: list[Outcome] = []
    try:
        outcomes.extend(launch())
    except Exception as error:
        print(f"a job was lost: {one_line(error)}", file=sys.stderr)
    return _confirmed(together(outcomes), cells)


def _is_done(cell: PreparedCell) -> bool:
    """Nothing is left to run, price or mirror."""
    return not (cell.missing or cell.config.dry_run or cell.config.tracking.name != "none")


def _confirmed(outcome: Outcome, cells: Sequence[PreparedCell]) -> Outcome:
    """The outcome with the records that are there, and every other run counted as failed."""
    if any(cell.config.dry_run for cell in cells):
        return outcome
    found = together(Outcome(*recorded_and_missing(cell)) for cell in cells)
    return replace(outcome, records=found.records, failures=found.failures)
