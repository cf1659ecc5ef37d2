"""The costs of the paper's Table 1: its own arithmetic, and what is counted. Seconds, no weights, no network.

    python -m experiments.table1 [output=outputs/table1]    writes bills.json
    python -m analysis.recomputed outputs/table1            its table and chart, the printed numbers beside them

`make reproduce EXPERIMENT=table1` does both.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from hydra import compose, initialize_config_dir

from adaptbench import provenance
from adaptbench.config import register_schemas, resolve
from adaptbench.costs.quote import Spent
from adaptbench.costs.table1 import NOMINAL, Sources, rows
from adaptbench.errors import InputError
from adaptbench.models.backbone import meta_backbone
from adaptbench.preflight import check_output
from adaptbench.schema import Config
from experiments.commandline import CONF, one_clear_line
from experiments.cost import take_text


def main() -> None:
    with one_clear_line():
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(__doc__)
            return
        output, rest = take_text(sys.argv[1:], "output")
        if rest:
            raise InputError(f"{rest[0]}: unknown; the only option is output=<folder>")
        folder = Path(output or "outputs/table1")
        check_output(folder, "output")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "bills.json").write_text(json.dumps(bills(), indent=1) + "\n")
    print(folder / "bills.json")


def bills() -> dict[str, object]:
    """Every cost cell of the table and the text, and the cells of the break-even chart."""
    register_schemas()
    configs = {name: _composed(f"model={name}") for name in NOMINAL}
    backbones = {
        name: meta_backbone(name, "", config.model.dtype, config.model.shape) for name, config in configs.items()
    }
    methods = {name: _composed(f"method={name}").method for name in ("ia3", "icl", "zero_shot")}
    sources = Sources(backbones, methods, next(iter(configs.values())).recipe)
    found, cells = rows(sources)
    lines = [line for cell in cells for line in _lines(cell)]
    origin = {"versions": provenance.versions(), "git": provenance.git()}
    return {"rows": [asdict(row) for row in found], "lines": lines, **origin}


def _lines(cell: Spent) -> list[dict[str, object]]:
    """Once and per prediction, counted; a cell that can share its demonstrations is drawn both ways."""
    name = {"method": cell.method, "model": cell.model}
    found: list[dict[str, object]] = [{**name, "once": cell.adapt.measured, "each": cell.predict.measured}]
    if cell.once and cell.after:
        found.append({**name, "method": "icl_cached", "once": cell.once.measured, "each": cell.after.measured})
    return found


def _composed(override: str) -> Config:
    with initialize_config_dir(CONF, version_base="1.3"):
        return resolve(compose("config", ["recipe=tfew", override]))


if __name__ == "__main__":
    main()
