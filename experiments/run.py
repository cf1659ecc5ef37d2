"""Run one cell, a Hydra multirun, or a whole experiment: `python -m experiments.run --help`."""

import sys

import hydra
from omegaconf import DictConfig

from adaptbench.config import register_schemas
from experiments.cells import failed, priced, refused, run_composed
from experiments.commandline import CONF, check_hydra_options, one_clear_line, program_arguments
from experiments.dry_run import report


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def run(composed: DictConfig) -> None:
    run_composed(composed)


def main() -> None:
    register_schemas()
    with one_clear_line():
        sys.argv[1:] = program_arguments(sys.argv[1:])
        check_hydra_options(sys.argv[1:])
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
