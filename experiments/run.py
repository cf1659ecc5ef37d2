"""Run one cell, a Hydra multirun, or a whole experiment: `python -m experiments.run --help`."""

import sys

import hydra
from omegaconf import DictConfig

from adaptbench.config import register_schemas, resolve
from adaptbench.errors import InputError
from adaptbench.runner import run_cell
from experiments.commandline import CONF, one_clear_line, program_arguments
from experiments.dry_run import Estimate, estimate, report
from experiments.progress import cell_progress

failed: list[str] = []  # one entry for every run of this process that failed
priced: list[tuple[Estimate, float]] = []  # dry run: the bill of every cell of this process
refused: list[InputError] = []  # cells of this process whose input was bad: the others go on


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def run(composed: DictConfig) -> None:
    try:
        config = resolve(composed)
        if config.dry_run:
            priced.append((estimate(config), config.gpu_tflops))
            return
        with cell_progress(config) as (advance, say):
            records = run_cell(config, advance)
            for one in records:
                score = "answered, no labels to score by" if one["score"] is None else f"{one['score']:.3f}"
                say(f"{one['method']} · {one['model']} · {one['dataset']} · seed {one['seed']}: {score}")
    except InputError as error:
        refused.append(error)
    else:
        failed.extend([config.output] * (len(config.seeds) - len(records)))


def main() -> None:
    register_schemas()
    sys.argv[1:] = program_arguments(sys.argv[1:])
    with one_clear_line():
        run()
        if refused:
            raise refused[0]
    if priced:
        print(report([one for one, _ in priced], priced[0][1]))
    if failed:
        print(f"{len(failed)} run(s) failed and will be tried again next time: {failed[0]}/failures/", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
