"""What the shipped base models can do before anything is compared: measured on the embedded world's held-out tasks.

    python -m experiments.capability [workers=2] [limit=100] [output=outputs/capability]

Zero-shot and in-context scores by size and number of shots, and how far full fine-tuning gets with 2,000 examples.
Means over tasks and five seeds with 95 % intervals over seeds and items. Runs that are there already are not repeated.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from hydra import compose, initialize_config_dir

from adaptbench.cell import PreparedCell
from adaptbench.config import as_config, register_schemas
from adaptbench.errors import InputError
from adaptbench.launch.check import check_cells
from adaptbench.launch.outcome import finish
from adaptbench.launch.sweep import run_here
from adaptbench.microworld import tasks
from adaptbench.preflight import check_output
from analysis.collect import load
from analysis.summary import Arm, build_arms
from experiments.commandline import CONF, one_clear_line

SIZES = ("micro_gpt_s", "micro_gpt_m", "micro_gpt_l")
LARGEST = SIZES[-1]
SHOTS = (1, 4, 16, 32)
# Twice through 2,000 examples. Declared, not tuned.
PLENTY = ("method=full_ft", "shots=2000", "method.steps=125", "recipe.batch_size=32", "method.name=full_ft_2000")


def arms() -> Iterator[tuple[str, ...]]:
    """Overrides of every arm; the dataset is added to each."""
    yield "model=micro_t0", "method=zero_shot"
    yield "model=micro_t0", "method=full_ft"
    yield "model=micro_t0", *PLENTY
    for size in SIZES:
        yield f"model={size}", "method=zero_shot"
        yield f"model={size}", "method=icl_cached", "method.name=icl_paper_shots"
    for shots in SHOTS:
        yield f"model={LARGEST}", "method=icl_cached", f"shots={shots}", f"method.name=icl_{shots}"


def cells(limit: int, output: str) -> list[PreparedCell]:
    register_schemas()
    common = ["recipe=micro", "name=capability", f"output={output}", f"limit={limit}", "keep_adapters=false"]
    with initialize_config_dir(CONF, version_base="1.3"):
        composed = [
            compose("config", [*common, f"dataset={dataset}", *arm])
            for arm in sorted(arms(), key=lambda arm: "full_ft_2000" not in arm[-1])  # the longest first
            for dataset in tasks.names()
        ]
    return check_cells([as_config(cell) for cell in composed])


def options(arguments: list[str]) -> dict[str, str]:
    known = {"workers": str(os.cpu_count() or 1), "limit": "100", "output": "outputs/capability"}
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name not in known or not value or (name != "output" and not _counts(value)):
            raise InputError(f"{argument!r}: expected workers=<number>, limit=<number> or output=<folder>")
        known[name] = value
    return known


def _counts(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) > 0


def report(folder: Path) -> list[str]:
    """The measured capabilities, a line each."""
    experiment = load(folder)
    datasets = sorted(set(experiment.records["dataset"]))
    chance = float(experiment.records.groupby("dataset")["chance"].median().mean())
    found = {(arm.model, arm.method): arm for arm in build_arms(experiment, datasets, _doubts())}
    lines = [f"{len(datasets)} held-out tasks, chance {100 * chance:.1f}. Scores in percent (95 % interval)."]
    zero = found["micro_t0", "zero_shot"]
    saturated = [name for name, cell in zero.by_dataset.items() if cell.scores.mean() > 0.95]
    lines.append(f"zero-shot micro_t0: {percent(zero)}, {difference(zero, chance)} against chance")
    lines.append(f"  above 95 % on {len(saturated)} tasks{': ' if saturated else ''}{', '.join(saturated)}")
    for size in SIZES:
        own, shown = found[size, "zero_shot"], found[size, "icl_paper_shots"]
        change = difference(shown, mean(own) / 100)
        lines.append(f"{size}: zero-shot {percent(own)}, with the paper's shots {percent(shown)}, {change}")
    curve = [f"{shots}: {percent(found[LARGEST, f'icl_{shots}'])}" for shots in SHOTS]
    lines.append(f"{LARGEST} by number of shots: 0: {percent(found[LARGEST, 'zero_shot'])}, {', '.join(curve)}")
    plenty, few = found["micro_t0", "full_ft_2000"], found["micro_t0", "full_ft"]
    lines.append(
        f"full fine-tuning of micro_t0: few-shot {percent(few)}, on 2,000 examples {percent(plenty)}, "
        f"{difference(plenty, mean(few) / 100)}"
    )
    return lines


def _doubts() -> dict[str, list[str]]:
    return {key: [] for key in ("missing", "mismatch", "items", "twice")}


def mean(arm: Arm) -> float:
    """Percent: mean over tasks of the mean over seeds."""
    return 100 * float(np.mean([cell.scores.mean() for cell in arm.by_dataset.values()]))


def percent(arm: Arm) -> str:
    low, high = arm.interval or (np.nan, np.nan)
    return f"{mean(arm):.1f} ({100 * low:.1f} to {100 * high:.1f})"


def difference(arm: Arm, reference: float) -> str:
    return f"{mean(arm) - 100 * reference:+.1f}"


def main() -> None:
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__)
        return
    with one_clear_line():
        chosen = options(sys.argv[1:])
        check_output(Path(chosen["output"]), "output")
        finish(run_here(cells(int(chosen["limit"]), chosen["output"]), int(chosen["workers"])))
    print(*report(Path(chosen["output"])), sep="\n")


if __name__ == "__main__":
    main()
