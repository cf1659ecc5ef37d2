"""One progress bar for everything a process runs, counted in runs, with an estimate of what is left."""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from adaptbench.schema import Config

_sweep: tqdm | None = None
_silent = False
_warned: set[str] = set()


def be_silent() -> None:
    """In a worker process: the parent has the bar."""
    global _silent
    _silent = True


def announce(configs: Sequence[Config], missing: int) -> None:
    """Before a sweep: how much there is to do, and how long it took where it was measured."""
    total = sum(len(config.seeds) for config in configs)
    line = f"{total} runs, {total - missing} of them there already"
    measured = next((config.seconds_per_run for config in configs if config.seconds_per_run), None)
    if measured and missing:
        line += f"; about {duration(measured * missing)} on the machine conf/experiment names"
    tqdm.write(line)


def duration(seconds: float) -> str:
    minutes = max(1, round(seconds / 60))
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


@contextmanager
def sweep_progress(runs: int, show: bool = True) -> Iterator[tqdm]:
    """A bar over all cells inside the block."""
    global _sweep
    with _bar(runs, show) as _sweep:
        try:
            yield _sweep
        finally:
            _sweep = None


@contextmanager
def cell_progress(config: Config) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """How a cell reports: a function to count one run, and one to print a line (a sweep's bar says enough)."""
    if _silent:
        yield (lambda: None), (lambda _line: None)
        return
    if _sweep is not None:
        _sweep.set_postfix_str(f"{config.method.name} {config.model.name} {config.dataset.name}", refresh=False)
        yield _count(_sweep), lambda _line: None
        return
    with _bar(len(config.seeds), config.progress, delay=2) as bar:  # bad input is known by then, and no bar above it
        yield _count(bar), lambda line: tqdm.write(line)


def warn_once(line: str) -> None:
    """A line on standard error, above the bar. A worker is silent: what it has to say goes to its parent."""
    if not _silent and line not in _warned:
        _warned.add(line)
        tqdm.write(line, file=sys.stderr)


def _count(bar: tqdm) -> Callable[[], None]:
    def advance() -> None:
        bar.update()

    return advance


def _bar(runs: int, show: bool, delay: float = 0) -> tqdm:
    every = 1 if sys.stderr.isatty() else 20  # seconds: a log file needs fewer lines than a terminal
    return tqdm(total=runs, unit="run", desc="runs", disable=not show, mininterval=every, smoothing=0.05, delay=delay)
