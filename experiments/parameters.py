"""Trainable parameters of every method on a model's shape, counted without weights, beside the paper's figures.

    python -m experiments.parameters model=t0_3b [recipe=tfew] [format=json]

`format=json` prints a list of rows with `method` and `trainable` (null, and `why`, for a method that does not fit the
model: a subspace larger than it). The paper prints figures for T0-3B (Table 4); a row's
`agrees` says whether the count rounds to the printed figure, in thousands of 1,000 or of 1,024.
"""

import csv
import json
import math
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from adaptbench.config import as_config, check, register_schemas
from adaptbench.errors import InputError
from adaptbench.models.backbone import Backbone
from adaptbench.schema import Config
from adaptbench.tasks import task_type
from experiments.commandline import CONF, check_options, one_clear_line, take_option

PUBLISHED = Path(__file__).parents[1] / "analysis" / "published" / "tfew.csv"
PAPERS_NAME = {  # the configurations that are the paper's released ones -> their names in the paper's tables
    "full_ft": "full_ft",
    "bitfit_tfew": "bitfit_layernorm",
    "layernorm": "layernorm",
    "adapter_tfew": "adapter",
    "compacter": "compacter",
    "compacter_pp": "compacter_pp",
    "prompt_10": "prompt_tuning_10",
    "prompt_100": "prompt_tuning_100",
    "prefix": "prefix_tuning",
    "fish_mask_02": "fish_mask_0.2pct",
    "fish_mask_002": "fish_mask_0.02pct",
    "intrinsic_said_500k": "said_500k",
    "intrinsic_said_20k": "said_20k",
    "lora_tfew": "lora",
    "ia3": "ia3",
}
UNITS = {"K": 1, "M": 2, "B": 3}

Row = dict[str, Any]


def configurations(overrides: list[str]) -> Iterator[tuple[str, Config, Backbone]]:
    """Every option of conf/method with its configuration and the model without weights."""
    register_schemas()
    backbone = None
    with initialize_config_dir(CONF, version_base="1.3"):
        for option in sorted(path.stem for path in (Path(CONF) / "method").glob("*.yaml")):
            if option == "hf_peft" and find_spec("peft") is None:
                continue  # an optional extra
            config = as_config(compose("config", ["recipe=tfew", *overrides, f"method={option}"]))
            answers_by_a_head = config.method.trains and not config.method.plan(1).demonstrations
            if task_type(config.dataset).bare and not answers_by_a_head:
                continue  # cannot be asked this kind of task
            if not config.method.heads_alone:  # of which there is none in most kinds of task
                config = check(config)
            backbone = backbone or task_type(config.dataset).without_weights(config.model)
            yield option, config, backbone


def rows(overrides: list[str]) -> list[Row]:
    """One row for every option of conf/method, in increasing order of trainable parameters."""
    printed = figures_of_table_4()
    found: list[Row] = []
    for option, config, backbone in configurations(overrides):
        if config.method.heads_alone and not task_type(config.dataset).bare:
            continue
        try:
            adaptation = config.method.prepare(backbone, seeds=[0]).to_task(task_type(config.dataset))
        except InputError as error:
            found.append({"method": option, "trainable": None, "share": None, "why": str(error)})
            continue
        trainable = adaptation.trainable
        row = {"method": option, "trainable": trainable, "share": trainable / backbone.parameters_total}
        if config.model.name == "t0_3b" and option in PAPERS_NAME:
            row["printed"] = printed[PAPERS_NAME[option]]
            row["agrees"] = rounds_to(trainable, row["printed"])
        found.append(row)
    return sorted(found, key=lambda row: (row["trainable"] is None, row["trainable"]))


def figures_of_table_4() -> dict[str, str]:
    """Parameters updated on T0-3B, as the paper prints them."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        return {
            row["method"]: row["note"].removeprefix("as printed: ")
            for row in csv.DictReader(file)
            if row["table"] == "table4" and row["metric"] == "params_updated"
        }


def rounds_to(count: int, printed: str) -> bool:
    """Whether a count gives the printed figure at as many digits: rounded or cut, or rounded in units of 1,024."""
    number, power = printed[:-1], UNITS[printed[-1]]
    digits = len(number.replace(".", "").rstrip("0"))

    def at_those_digits(thousand: int, cut: Callable[[float], int]) -> float:
        scaled = count / thousand**power
        unit = 10.0 ** (math.floor(math.log10(scaled)) + 1 - digits)
        return cut(scaled / unit) * unit

    ways = (at_those_digits(1000, round), at_those_digits(1000, math.floor), at_those_digits(1024, round))
    return any(math.isclose(way, float(number)) for way in ways)


def findings(table: list[Row]) -> list[str]:
    """The paper's figures that its own released configurations do not give."""
    return [
        f"{row['method']}: the released configuration trains {row['trainable']:,} parameters; the paper prints "
        f"{row['printed']}, which does not follow from it."
        for row in table
        if row.get("agrees") is False
    ]


def main() -> None:
    with one_clear_line():
        if {"-h", "--help"} & set(sys.argv[1:]):
            print(__doc__)
            return
        check_options(sys.argv[1:])
        style, overrides = take_option(sys.argv[1:], "format", ("table", "json"))
        found = rows(overrides)
    if style == "json":
        print(json.dumps(found, indent=1))
        return
    print(f"{'method':20s} {'trainable':>15s} {'of the model':>14s} {'paper':>8s}")
    for row in found:
        if row["trainable"] is None:
            print(f"{row['method']:20s} {'-':>15s} {row['why']}")
            continue
        line = f"{row['method']:20s} {row['trainable']:15,d} {row['share']:14.4%}"
        print(f"{line} {row['printed']:>8s}" if "printed" in row else line)
    for finding in findings(found):
        print(f"\nFinding. {finding}")


if __name__ == "__main__":
    main()
