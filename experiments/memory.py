"""Peak memory of a cell, measured: each phase in a fresh process on a CPU, by the allocator on an accelerator.

    python -m experiments.memory model=micro_t0 method=ia3 dataset=micro_rte [format=json]

Loads the model, trains a few steps, scores a few prompts. Beside each measurement stands the count of tensors, which
needs no run (experiments.cost). On a CPU the measured number is what the process grew by since its libraries were
loaded; it includes what the allocator keeps for later.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace

import torch
from hydra import compose, initialize_config_dir

from adaptbench.cell import prepare_cell
from adaptbench.config import register_schemas, resolve
from adaptbench.costs.ledger import ledger_for
from adaptbench.costs.measured import accelerator_peak, process_peak, resident
from adaptbench.methods.base import Adaptation, TrainedMethod
from adaptbench.schema import Config
from adaptbench.scoring.evaluate import evaluate, readings
from experiments.bill_text import size
from experiments.commandline import CONF, REPOSITORY, check_options, one_clear_line, program_arguments, take_option

STEPS, PROMPTS = 3, 8
Found = dict[str, object]


def main() -> None:
    with one_clear_line():
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(__doc__)
            return
        check_options(sys.argv[1:])
        style, rest = take_option(sys.argv[1:], "format", ("table", "json"))
        phase, rest = take_option(rest, "phase", ("both", "adapt", "predict"))
        found = [measure(rest, phase)] if phase != "both" else [_in_fresh_process(rest, name) for name in PHASES]
    if style == "json" or phase != "both":
        print(json.dumps(found if phase == "both" else found[0], indent=1))
        return
    print(f"{'phase':10s}{'measured':>12s}{'tensors':>12s}   how")
    for result in found:
        measured, tensors = (
            size(value) if isinstance(value, int) else "none" for value in (result["measured"], result["tensors"])
        )
        print(f"{result['phase']!s:10s}{measured:>12s}{tensors:>12s}   {result['how']}")


PHASES = ("adapt", "predict")


def _in_fresh_process(overrides: list[str], phase: str) -> Found:
    command = [sys.executable, "-P", "-m", "experiments.memory", f"phase={phase}", *overrides]
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))  # and not the user's folder
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path})
    if done.returncode:
        sys.stderr.write(done.stderr)
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def measure(overrides: list[str], phase: str) -> Found:
    """One phase in this process: the measured peak and the tensors' count at the same shapes."""
    register_schemas()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = resolve(compose("config", program_arguments(overrides)))
    config = replace(config, seeds=config.seeds[:1], limit=PROMPTS, progress=False)
    before = resident()
    cell = prepare_cell(config)
    backbone = cell.task.type.load(config.model, config.device)
    method = config.method
    if isinstance(method, TrainedMethod):
        method = replace(method, steps=STEPS)
    adaptation: Adaptation

    def adapt() -> None:
        nonlocal adaptation
        adaptation = method.adapt(backbone, cell.task, cell.few_shot_sets, config.recipe, config.template)

    def predict() -> None:
        evaluate(adaptation, cell.prompts, batch_size=1)

    if phase == "predict":
        if isinstance(method, TrainedMethod):  # its memory must not be that of training
            untrained = method.prepare(backbone, [few_shot.seed for few_shot in cell.few_shot_sets])
            adaptation = untrained.to_task(cell.task.type).for_inference()
        else:
            adapt()
    measured, how = _peak(predict if phase == "predict" else adapt, backbone.device, before)
    ledger = ledger_for(method, backbone, config.recipe, cell.task.type)
    bill = ledger.bill(adaptation, 0, readings(adaptation, cell.prompts, 0))
    counted = bill.memory_predict if phase == "predict" else bill.memory_adapt
    return {
        "phase": phase,
        "measured": measured if counted else None,
        "tensors": counted.peak if counted else None,
        "items": asdict(counted) if counted else None,
        "how": how,
        "cell": _name(config),
    }


def _peak(step: Callable[[], object], device: torch.device, before: int) -> tuple[int, str]:
    if device.type != "cpu":
        return accelerator_peak(step, device), f"allocator of {device.type}"
    step()
    return process_peak() - before, "growth of a fresh process"


def _name(config: Config) -> str:
    return f"{config.method.name} {config.model.name} {config.dataset.name}"


if __name__ == "__main__":
    main()
