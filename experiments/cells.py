"""Run composed cells: one after the other in this process, or several at a time in processes of their own."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed

from omegaconf import DictConfig

from adaptbench.config import register_schemas, resolve
from adaptbench.errors import InputError
from adaptbench.runner import run_cell
from adaptbench.tracking import out_of_reach
from experiments.dry_run import Estimate, estimate
from experiments.progress import be_silent, cell_progress, warn

failed: list[str] = []  # one entry for every run that failed
priced: list[tuple[Estimate, float]] = []  # dry run: the bill of every cell, and the teraFLOP/s it assumes
refused: list[InputError] = []  # cells whose input was bad: the others go on
warned: set[str] = set()  # trackers that could not be reached, of which the user knows


def run_composed(composed: DictConfig) -> None:
    """Run one cell, and keep count of what went wrong."""
    try:
        config = resolve(composed)
        if config.dry_run:
            priced.append((estimate(config), config.gpu_tflops))
            return
        with cell_progress(config) as (advance, say):
            records = run_cell(config, advance)
            _warn_of(out_of_reach)
            for one in records:
                score = "answered, no labels to score by" if one["score"] is None else f"{one['score']:.3f}"
                say(f"{one['method']} · {one['model']} · {one['dataset']} · seed {one['seed']}: {score}")
    except InputError as error:
        refused.append(error)
    else:
        failed.extend([config.output] * (len(config.seeds) - len(records)))


def _warn_of(unreached: dict[str, str]) -> None:
    """Say once that a tracker is out of reach: the files are the record, so runs go on, and count as they are."""
    for tracker, why in unreached.items():
        if tracker not in warned:
            warned.add(tracker)
            warn(f"warning: {tracker}: {why}; runs go on, and the next call mirrors what is missing")


def run_in_parallel(cells: Sequence[DictConfig], workers: int) -> Iterator[int]:
    """Run the cells in `workers` processes; yields how many runs each one that finishes accounts for.

    Processes share nothing but the folder of results, where every file is written whole or not at all.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_die_with, initargs=(os.getpid(),)) as pool:
        waiting = {pool.submit(_run_quietly, cell): len(cell.seeds) for cell in cells}
        for done in as_completed(waiting):
            lost, errors, bills, unreached = done.result()
            failed.extend(lost)
            refused.extend(errors)
            priced.extend(bills)
            _warn_of(unreached)
            yield waiting[done]


Outcome = tuple[list[str], list[InputError], list[tuple[Estimate, float]], dict[str, str]]


def _run_quietly(composed: DictConfig) -> Outcome:
    """In a worker: what went wrong, or what it would cost, goes back to the parent, which has the progress bar."""
    register_schemas()
    composed.progress = False
    be_silent()
    failed.clear()
    refused.clear()
    priced.clear()
    run_composed(composed)
    return list(failed), list(refused), list(priced), dict(out_of_reach)


def _die_with(parent: int, every: float = 1.0, exit_now: Callable[[int], None] = os._exit) -> None:
    """Workers of a killed parent would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        exit_now(1)

    threading.Thread(target=watch, daemon=True).start()
