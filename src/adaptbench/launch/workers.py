"""Run prepared cells in several processes of this machine, which share nothing but the folder of results."""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import torch

from adaptbench.cell import PreparedCell
from adaptbench.launch.cells import recorded_and_missing, run_prepared
from adaptbench.launch.outcome import Outcome
from adaptbench.launch.progress import be_silent, warn_once


def run_in_parallel(cells: Sequence[PreparedCell], workers: int) -> Iterator[tuple[PreparedCell, Outcome]]:
    """Run the cells in `workers` processes; yields each with its outcome when it has finished.

    They share the cores: with all of them each, two take several times as long as one after the other. A worker that
    dies (killed, out of memory) takes the others with it: what is not recorded by then has failed.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(os.getpid(), threads(workers))) as pool:
        waiting = {pool.submit(_run_quietly, cell): cell for cell in cells}
        for done in as_completed(waiting):
            cell = waiting[done]
            try:
                outcome = done.result()
            except BrokenProcessPool:
                warn_once(
                    "a worker process was killed (out of memory?); the runs that it and others had begun are lost"
                )
                outcome = Outcome(*recorded_and_missing(cell))
            for tracker, why in outcome.unreached.items():
                warn_once(f"warning: {tracker}: {why}; runs go on, and the next call mirrors what is missing")
            yield cell, outcome


def _run_quietly(cell: PreparedCell) -> Outcome:
    """In a worker: the parent has the progress bar."""
    be_silent()
    return run_prepared(replace(cell, config=replace(cell.config, progress=False)))


def threads(workers: int) -> int:
    """Threads of each of so many workers: a share of those this process would use, unless OMP_NUM_THREADS says."""
    own = torch.get_num_threads()
    return own if "OMP_NUM_THREADS" in os.environ else max(1, own // workers)


def _begin(parent: int, own_threads: int) -> None:
    torch.set_num_threads(own_threads)
    _die_with(parent)


def _die_with(parent: int, every: float = 1.0, exit_now: Callable[[int], None] = os._exit) -> None:
    """Workers of a killed parent would wait for work for ever."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(every)
        exit_now(1)

    threading.Thread(target=watch, daemon=True).start()
