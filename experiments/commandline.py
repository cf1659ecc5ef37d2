"""What the programs share on the command line: bad input ends in one clear line and exit code 2."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from adaptbench.errors import InputError

CONF = str(Path(__file__).parents[1] / "conf")


# Settings that are dictionaries of the user's own keys: Hydra wants `+` before those, and people forget it.
OPEN = ("dataset.columns", "dataset.labels", "dataset.local", "dataset.templates")


def program_arguments(arguments: list[str]) -> list[str]:
    """Accept `+experiment=x` and `+dry_run=true` without the plus, `dataset.labels={..}` for `+dataset.labels={..}`,
    and `-m` at any place."""
    multirun = [one for one in arguments if one in ("-m", "--multirun")]
    return multirun + [_spelled(one) for one in arguments if one not in ("-m", "--multirun")]


def _spelled(argument: str) -> str:
    if argument.startswith(("+experiment=", "+dry_run=")):
        return argument[1:]
    name, _, value = argument.partition("=")
    return f"+{argument}" if name in OPEN and value.startswith("{") else argument


def take_option(arguments: list[str], name: str, known: tuple[str, ...]) -> tuple[str, list[str]]:
    """Take `name=value` out of the arguments; the first of `known` is the default."""
    values = [one.partition("=")[2] for one in arguments if one.startswith(f"{name}=")] or [known[0]]
    if values[-1] not in known:
        raise InputError(f"{name}={values[-1]!r}: expected one of {', '.join(known)}")
    return values[-1], [one for one in arguments if not one.startswith(f"{name}=")]


@contextmanager
def one_clear_line() -> Iterator[None]:
    """Turn what is wrong with the input into one line on standard error and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through: Hydra would print them over many lines
    try:
        yield
    except (InputError, HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        print(f"error: {_explain(error)}", file=sys.stderr)
        sys.exit(2)


def _explain(error: BaseException) -> str:
    """The messages of an error and its causes as one line."""
    messages = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        messages.append(str(error))
    lines = [line.strip() for message in messages for line in message.splitlines()]
    shown = [line for line in dict.fromkeys(lines) if line and not line.startswith(_NOISE)]
    return re.sub(r":[;,] ", ": ", ", ".join(shown))


# Lines of Hydra's and OmegaConf's messages that help nobody who made a typo.
_NOISE = ("full_key", "object_type", "reference_type", "Config search path", "provider=", "schema_")
