"""Write docs/methods.md, the table of all methods, from the code: `python -m experiments.methods`."""

import sys

from adaptbench.errors import InputError
from adaptbench.methods.base import Method, PeftMethod
from experiments.commandline import REPOSITORY, one_clear_line
from experiments.parameters import configurations

PAGE = REPOSITORY / "docs" / "methods.md"

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
    with one_clear_line():
        given = sys.argv[1:]
        if {"-h", "--help"} & set(given):
            print(__doc__)
            return
        if given:
            raise InputError(f"{given[0]!r}: expected no arguments")
        if not PAGE.is_file():
            raise InputError(f"{PAGE}: not here; this program works in a checkout of the repository")
        PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()
