"""Check all cells of a sweep before the first of them runs."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from adaptbench.cell import CellData, PreparedCell, prepare_cell, read_data
from adaptbench.config import check
from adaptbench.preflight import check_room, preflight
from adaptbench.schema import Config


def check_cells(configs: Sequence[Config]) -> list[PreparedCell]:
    """Read and check the data of all cells, and try what they need from outside. Cells with the same data share them.

    Raises:
        InputError: whatever is wrong with the input of any cell.
    """
    read: dict[str, CellData] = {}
    cells = []
    for config in map(check, configs):
        key = _data_key(config)
        if key not in read:
            read[key] = read_data(config)
        cells.append(prepare_cell(config, read[key]))
    needed: Counter[str] = Counter()
    for cell in cells:
        if not cell.config.dry_run:
            needed[cell.config.output] += preflight(cell.config, cell.missing)
    for output, size in needed.items():
        check_room(Path(output), size, "output")
    return cells


def _data_key(config: Config) -> str:
    """Everything that `read_data` looks at."""
    return repr(
        (
            config.dataset,
            config.seeds,
            config.shots,
            config.limit,
            config.template,
            config.norm,
            config.method.needs_shots,
        )
    )
