"""Run one cell, a Hydra multirun, or a whole experiment: `python -m experiments.run --help`."""

import sys

import hydra

from adaptbench.config import register_schemas
from adaptbench.launch.outcome import finish, together
from adaptbench.launch.task import Task
from experiments.commandline import CONF, check_hydra_options, help_of_options, one_clear_line, program_arguments


def main() -> None:
    register_schemas()
    with one_clear_line():
        sys.argv[1:] = program_arguments(sys.argv[1:])
        check_hydra_options(sys.argv[1:])
        task = Task()
        with help_of_options(sys.argv[1:]):
            hydra.main(version_base="1.3", config_path=CONF, config_name="config")(task)()
        finish(together(task.outcomes))


if __name__ == "__main__":
    main()
