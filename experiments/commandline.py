"""What the programs share on the command line: bad input ends in one clear line and exit code 2."""

import argparse
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import resources
from pathlib import Path
from typing import NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from adaptbench.errors import InputError

REPOSITORY = Path(__file__).parents[1]
IN_REPOSITORY = (REPOSITORY / "src" / "adaptbench").is_dir()  # or else this is an installed package


def configuration() -> Path:
    """The folder of YAML files: conf/ of the repository, or the copy of it inside an installed package."""
    return REPOSITORY / "conf" if IN_REPOSITORY else Path(str(resources.files("adaptbench"))) / "conf"


CONF = str(configuration())

# Settings that are dictionaries of the user's own keys: Hydra wants `+` before those, and people forget it.
OPEN = (
    *("dataset.columns", "dataset.labels", "dataset.local", "dataset.templates"),
    *("method.arguments", "model.shape"),
)
LABELS = "dataset.labels"
_QUOTED_KEY = re.compile(r"(?P<text>\"(?:\\.|[^\"\\])*\"|'(?:\\.|[^'\\])*')(?P<colon>\s*:)?")


def program_arguments(arguments: list[str]) -> list[str]:
    """Accept `+experiment=x` and `+dry_run=true` without the plus, `dataset.columns={..}` for `+dataset.columns={..}`,
    `method.arguments.r=4` for `++method.arguments.r=4`, any keys in `dataset.labels={..}`, and `-m` at any place."""
    multirun = [argument for argument in arguments if argument in ("-m", "--multirun")]
    return multirun + [_spelled(argument) for argument in arguments if argument not in ("-m", "--multirun")]


def _spelled(argument: str) -> str:
    if argument.startswith(("+experiment=", "+dry_run=")):
        return argument[1:]
    name, _, value = argument.partition("=")
    if name.lstrip("+") == LABELS and value.startswith("{") and not re.search(r"}\s*,\s*{", value):
        return f"{LABELS}={_text(value)}"  # Hydra would take 1 and true for no text, and refuses quotes and accents
    if name.startswith(tuple(f"{setting}." for setting in OPEN)):
        return f"++{argument}"
    if name.lstrip("+") in OPEN and value.startswith("{"):
        return f"{'' if name.startswith('+') else '+'}{name}={_QUOTED_KEY.sub(_bare_key, value)}"
    if re.search(r"[^\w/.\-]", value, re.ASCII) and os.path.isfile(os.path.expanduser(value)):
        return f"{name}={_text(value)}"  # a file whose name Hydra would take for grammar
    return argument


def _text(value: str) -> str:
    """A value that Hydra reads as this very text."""
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    trailing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{trailing * chr(92)}'"


def _bare_key(match: re.Match[str]) -> str:
    """JSON's way to write a key, without its quotes; a quoted value as it is."""
    key = match["text"][1:-1]
    bare = match["colon"] is not None and re.fullmatch(r"[A-Za-z_]\w*", key, re.ASCII)
    return f"{key}{match['colon']}" if bare else match[0]


def check_options(arguments: list[str]) -> None:
    """For programs that take `setting=value` only: Hydra's words for an argument with dashes say nothing.

    Raises:
        InputError: names the argument.
    """
    for argument in arguments:
        if argument.startswith("-"):
            raise InputError(f"{argument}: unknown, expected setting=value (see --help)")


def check_hydra_options(arguments: list[str]) -> None:
    """Refuse options that Hydra does not know before it prints all those it does.

    Raises:
        InputError: names the option.
    """
    parser = get_args_parser()
    parser.error = _unknown  # type: ignore[method-assign]
    parser.parse_args(arguments)


def _unknown(message: str) -> NoReturn:
    raise InputError(f"{message} (see --help)")


def take_option(arguments: list[str], name: str, allowed: tuple[str, ...]) -> tuple[str, list[str]]:
    """Take `name=value` out of the arguments; the first of `known` is the default."""
    values = [argument.partition("=")[2] for argument in arguments if argument.startswith(f"{name}=")] or [allowed[0]]
    if values[-1] not in allowed:
        raise InputError(f"{name}={values[-1]!r}: expected one of {', '.join(allowed)}")
    return values[-1], [argument for argument in arguments if not argument.startswith(f"{name}=")]


def at_least_one(text: str) -> int:
    """A whole number of at least one, as a type of `Options`."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a whole number of at least 1")
    return int(text)


def plain_name(text: str) -> str:
    """The name of a file that is no path, as a type of `Options`."""
    if not text or Path(text).name != text:
        raise argparse.ArgumentTypeError(f"{text!r}: expected a name, not a path")
    return text


@contextmanager
def one_clear_line() -> Iterator[None]:
    """Turn what is wrong with the input into one line on standard error and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # let exceptions through: Hydra would print them over many lines
    try:
        yield
    except BrokenPipeError:  # whoever reads what we print has stopped: nothing is wrong with the input
        raise
    except (InputError, HydraException, OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        print(f"error: {_explain(error)}", file=sys.stderr)
        sys.exit(2)


class Options(argparse.ArgumentParser):
    """Options with dashes, for programs that have no Hydra configuration: what is wrong with them is one line, too."""

    def error(self, message: str) -> NoReturn:
        _unknown(message)


def _explain(error: BaseException) -> str:
    """The messages of an error and its causes as one line."""
    messages = [str(error)]
    while error.__cause__ is not None:
        error = error.__cause__
        messages.append(str(error))
    lines = [line.strip() for message in messages for line in message.splitlines()]
    shown: list[str] = []
    for line in lines:
        if line and not line.startswith(_NOISE) and not any(line in earlier for earlier in shown):
            shown.append(line)
    return re.sub(r":[;,] ", ": ", ", ".join(shown))


# Lines of Hydra's and OmegaConf's messages that help nobody who made a typo.
_NOISE = ("full_key", "object_type", "reference_type", "Config search path", "provider=", "schema_")


@contextmanager
def help_of_options(arguments: Sequence[str]) -> Iterator[None]:
    """Inside, Hydra's help names the options that a user has: no schemas, nor what only other options are made of."""
    if not {"--help", "-h"} & set(arguments):
        yield
        return
    shown = io.StringIO()
    try:
        with redirect_stdout(shown):
            yield
    finally:  # Hydra leaves by SystemExit
        lines = [line for line in shown.getvalue().splitlines() if not line.startswith("dataset/base:")]
        print("\n".join(re.sub(r"schema_\w+, |, schema_\w+", "", line) for line in lines))
