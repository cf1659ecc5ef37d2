"""Trainable parameters of every method on a model's shape, counted without weights.

    python -m experiments.parameters model=t0_3b [recipe=tfew] [format=json]

`format=json` prints a list of rows with `method` and `trainable`.
"""

import json
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir

from adaptbench.config import register_schemas, resolve
from adaptbench.models.backbone import meta_backbone
from experiments.commandline import CONF, one_clear_line, take_option

Row = dict[str, str | int | float]


def rows(overrides: list[str]) -> list[Row]:
    """One row for every option of conf/method, in increasing order of trainable parameters."""
    register_schemas()
    found: list[Row] = []
    with initialize_config_dir(CONF, version_base="1.3"):
        for option in sorted(path.stem for path in (Path(CONF) / "method").glob("*.yaml")):
            config = resolve(compose("config", ["recipe=tfew", *overrides, f"method={option}"]))
            model = config.model
            backbone = meta_backbone(model.name, model.path, model.dtype, model.shape)
            trainable = config.method.prepare(backbone, seeds=[0]).trainable
            found.append({"method": option, "trainable": trainable, "share": trainable / backbone.parameters_total})
    return sorted(found, key=lambda row: row["trainable"])


def main() -> None:
    with one_clear_line():
        style, overrides = take_option(sys.argv[1:], "format", ("table", "json"))
        if {"-h", "--help"} & set(overrides):
            print(__doc__)
            return
        found = rows(overrides)
    if style == "json":
        print(json.dumps(found, indent=1))
        return
    print(f"{'method':20s} {'trainable':>15s} {'of the model':>14s}")
    for row in found:
        print(f"{row['method']:20s} {row['trainable']:15,d} {row['share']:14.4%}")


if __name__ == "__main__":
    main()
