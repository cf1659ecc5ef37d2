"""Write the small real data sets that come with the package, from the files under $ADAPTBENCH_DATA.

    python -m experiments.ship_data [folder]        (default: the package's own, src/adaptbench/real)

Of each of them: the few-shot draws of five seeds, as the data set of conf/dataset that it is taken from draws them, and
evaluation rows. Where there are more than 300, it is those that `draw` gives for seed 0, equally many of each label; a
text is taken once. A row keeps the fields that templates read, its label's name, and as `idx` its number in the part of
the data that it is from. src/adaptbench/real/SOURCES.md says whose the data are and how they are licensed.
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra import compose, initialize_config_dir

from adaptbench.config import register_schemas, resolve
from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import draw
from adaptbench.data.labels import shown_names
from adaptbench.data.sources import SHIPPED, load_task
from experiments.commandline import CONF, check_options, one_clear_line

SEEDS = (0, 1, 32, 42, 1024)
ROWS, ROWS_SEED = 300, 0  # of the evaluation sample
FIELDS = {  # a data set of conf/dataset and its folder -> the fields that its templates read
    "sms_spam": ("text",),
    "clinc_domain": ("text",),
    "sci_cite": ("text",),
    "copa": ("premise", "choice1", "choice2", "question"),
}


def ship(name: str, folder: Path) -> int:
    """Write a data set's files, and return how many bytes they have.

    Raises:
        InputError: the files that they are taken from are not there, or not what they should be.
    """
    register_schemas()
    with initialize_config_dir(CONF, version_base="1.3"):
        config = resolve(compose("config", [f"dataset={name}"])).dataset
    if config.source == "hub":  # from the files at hand alone: the hub's rows may be others
        config = replace(config, source="files", train=config.local.get("train"), evaluation=config.local["evaluation"])
    task = load_task(config)
    parts = {f"{seed}_seed": draw(task, seed).examples for seed in SEEDS} | {"evaluation": evaluation_sample(task)}
    labels = list(shown_names(config.labels))
    folder.mkdir(parents=True, exist_ok=True)
    return sum(_write(folder / f"{part}.jsonl", examples, FIELDS[name], labels) for part, examples in parts.items())


def evaluation_sample(task: TaskData) -> Sequence[Example]:
    """All evaluation rows, or where they are many a stratified sample of different texts."""
    if len(task.evaluation) <= ROWS:
        return task.evaluation
    different: dict[str, Example] = {}
    for example in task.evaluation:
        different.setdefault(example.fields["text"].strip(), example)
    pool = replace(task, train=list(different.values()), draws={}, sampling="stratified")
    return draw(pool, ROWS_SEED, ROWS).examples


def _write(file: Path, examples: Sequence[Example], fields: Sequence[str], labels: Sequence[str]) -> int:
    lines = []
    for example in examples:
        kept = {name: example.fields[name] for name in fields}
        row = {"idx": int(example.uid), **kept, "label": labels[example.label]}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    return file.write_bytes("".join(lines).encode())


def main() -> None:
    """Write all of them."""
    with one_clear_line():
        given = sys.argv[1:]
        if {"-h", "--help"} & set(given):
            print(__doc__)
            return
        check_options(given)
        folder = Path(given[0]) if given else SHIPPED
        for name in FIELDS:
            print(f"{folder / name}: {ship(name, folder / name)} bytes")


if __name__ == "__main__":
    main()
