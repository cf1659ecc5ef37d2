"""Write docs/methods.md, the table of all methods, from the code: `python -m experiments.methods`."""

from pathlib import Path

from adaptbench.methods.base import Method, PeftMethod
from experiments.parameters import configurations

PAGE = Path(__file__).parents[1] / "docs" / "methods.md"

HEAD = """# Methods

Written by `python -m experiments.methods`; do not edit. One row for every configuration in `conf/method/`, with its
parameters on T0-3B under `recipe=tfew`. *Merges*: what is learned can be folded into the weights, so that predictions
cost nothing extra. *Fuses*: several runs train in one pass. *Mixed*: different adapters can serve the rows of one batch
(paper, section 3.3). What distinguishes two configurations stands in their YAML; `layer_norms: true` trains all layer
norms besides, with any delta. The `_tfew` configurations are the ones the paper's authors released; their namesakes
follow the original papers and leave layer norms frozen (docs/decisions.md).

| configuration | attaches to | formula | parameters on T0-3B | merges | fuses | mixed | source |
|---|---|---|---|---|---|---|---|
"""


def page() -> str:
    """The whole text of docs/methods.md."""
    lines = []
    for option, config, backbone in configurations(["model=t0_3b"]):
        method: Method = config.method
        trainable = method.prepare(backbone, seeds=[0]).trainable
        norms = "; all layer norms" if getattr(method, "layer_norms", False) and method.where != "norms" else ""
        cells = (
            f"`{option}`",
            method.place() + norms,
            method.equation().replace("|", "\\|"),
            f"{trainable:,}",
            *(_mark(true) for true in (method.merges, method.fuses, isinstance(method, PeftMethod))),
            method.source,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return HEAD + "\n".join(lines) + "\n"


def _mark(true: bool) -> str:
    return "yes" if true else "–"


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
