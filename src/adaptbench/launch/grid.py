"""Which cells of a sweep's grid belong to an experiment: `cells` in its YAML, whatever the launcher."""

from collections.abc import Callable, Sequence
from typing import Any

from adaptbench.errors import InputError

Entry = dict[str, list[Any]]  # group -> options: a cell that has one of them in each group belongs
Known = Callable[[str], Sequence[str] | None]  # options of a group; None: no such group


def check_entries(entries: Any, known: Known) -> list[Entry]:
    """The entries of `cells`, once every key and value is one that a cell can have.

    Raises:
        InputError: a misspelt key would match every cell, a misspelt value none.
    """
    for position, entry in enumerate(entries):
        where = f"cells[{position}]"
        if not isinstance(entry, dict) or not entry:
            raise InputError(f"{where}={entry!r}: expected lists of options, as in {{method: [ia3, lora]}}")
        for group, chosen in entry.items():
            options = known(group)
            if options is None:
                raise InputError(f"{where}: {group!r} is neither a group of the configuration nor swept")
            if not isinstance(chosen, list) or not chosen:
                raise InputError(f"{where}.{group}={chosen!r}: expected a list of one or more options")
            for option in chosen:
                if str(option) not in options:
                    raise InputError(f"{where}.{group}: {option!r} is none of its options: {', '.join(options)}")
    return [{group: [str(option) for option in chosen] for group, chosen in entry.items()} for entry in entries]


def belonging(grid: Sequence[Sequence[str]], entries: Sequence[Entry]) -> list[Sequence[str]]:
    """The cells of a grid that match an entry, in the order of the entries; all of them where there are no entries."""
    if not entries:
        return list(grid)
    positions = [(first_match(overrides, entries), overrides) for overrides in grid]
    matched = [(position, overrides) for position, overrides in positions if position is not None]
    return [overrides for _, overrides in sorted(matched, key=lambda pair: pair[0])]


def first_match(overrides: Sequence[str], entries: Sequence[Entry]) -> int | None:
    """Position of the first entry that a cell matches, or None.

    Only what the sweep varies can be outside: a group that the overrides do not name matches every entry.
    """
    chosen = dict(override.split("=", 1) for override in overrides if "=" in override)
    for position, entry in enumerate(entries):
        if all(group not in chosen or chosen[group] in options for group, options in entry.items()):
            return position
    return None
