"""Write docs/methods.md, the tables of methods and architectures, from the code: `python -m experiments.methods`."""

import sys
from collections.abc import Iterator

from transformers import AutoConfig

from adaptbench.errors import InputError
from adaptbench.methods.base import Method, PeftMethod
from adaptbench.models.anatomy import ARCHITECTURES, ENCODERS_ONLY
from experiments.commandline import REPOSITORY, one_clear_line
from experiments.parameters import configurations

PAGE = REPOSITORY / "docs" / "methods.md"

HEAD = """# Methods

Written by `python -m experiments.methods`; do not edit. One row for every configuration in `conf/method/`, with its
parameters on T0-3B under `recipe=tfew` (–: for encoders, or heads, alone). *Merges*: what is learned can be folded
into the weights, so that predictions cost nothing extra. *Fuses*: several runs train in one pass. *Mixed*: different
adapters can serve the rows of one batch (paper, section 3.3). What distinguishes two configurations stands in their
YAML; `layer_norms: true` trains all layer norms besides, with any delta. The `_tfew` configurations are the ones the
paper's authors released; their namesakes follow the original papers and leave layer norms frozen (docs/decisions.md).

| configuration | attaches to | formula | parameters on T0-3B | merges | fuses | mixed | source |
|---|---|---|---|---|---|---|---|
"""

ARCHITECTURES_HEAD = """
## Architectures

`zero_shot`, `icl`, `full_ft`, `fish_mask` and (where PEFT can attach) `hf_peft` run on every causal or encoder-decoder
language model of transformers. One that looks ahead, or whose scores would depend on the rest of the batch, is refused
when it is loaded. All other methods attach to the parts of these architectures. *Choices*: those of a prompt share one
pass, or each is read with the prompt again. *Prefixes*: keys and values can be put before a model's own, which
`prefix`, `unipelt` and `icl_cached` (decoders) need. Experts are no linear maps here: in Mixtral and the MoE models
methods attach to attentions, norms, and what of the feed-forward is dense. A sliding window counts the tokens of a
prompt and of its demonstrations as the model does; the virtual tokens of `prefix` have no position, and every token
sees them.

| architecture | `model_type` | choices | prefixes |
|---|---|---|---|
"""


def page() -> str:
    """The whole text of docs/methods.md."""
    lines = []
    for option, config, backbone in configurations(["model=t0_3b"]):
        method: Method = config.method
        try:
            trainable = f"{method.prepare(backbone, seeds=[0]).trainable:,}"
        except InputError:  # encoders alone
            trainable = "–"
        if method.heads_alone:
            trainable = "–"
        norms = "; all layer norms" if getattr(method, "layer_norms", False) and method.attachment != "norms" else ""
        cells = (
            f"`{option}`",
            method.attachment + norms,
            method.formula.replace("|", "\\|"),
            trainable,
            *(_mark(true) for true in (method.merges, method.fuses, isinstance(method, PeftMethod))),
            method.source,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return HEAD + "\n".join(lines) + "\n" + ARCHITECTURES_HEAD + "\n".join(_architectures()) + "\n"


def _architectures() -> Iterator[str]:
    for kind, architecture in ARCHITECTURES.items():
        if kind in ENCODERS_ONLY:
            choices = "none: an encoder"
        else:
            packs = architecture.packs(AutoConfig.for_model(kind))
            choices = "one pass" if packs else "a pass each"
        if kind == "falcon":
            choices += " (with ALiBi a pass each)"
        cells = (architecture.name, f"`{kind}`", choices, _mark(architecture.calls_attention_function))
        yield "| " + " | ".join(cells) + " |"


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
