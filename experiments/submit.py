"""RAFT's leaderboard files from finished runs: `python -m experiments.submit outputs/raft`.

For every method, model and seed that has answered some of the tasks it writes
`<experiment>/submissions/<method>-<model>-<seed>/data/<task>/predictions.csv` with the columns ID and Label, the layout
of the leaderboard's own template repository, and says which tasks are missing or were evaluated on a part of the rows.
"""

from pathlib import Path
from typing import Any

import pandas as pd

from adaptbench.errors import InputError
from adaptbench.metrics.normalisation import normalised
from experiments.commandline import CONF, one_clear_line
from experiments.finished import experiment_folder, finished

PREFIX = "raft_"
TASKS = tuple(sorted(path.stem.removeprefix(PREFIX) for path in (Path(CONF) / "dataset").glob(f"{PREFIX}*.yaml")))


def submit(folder: Path) -> dict[Path, list[str]]:
    """Write what the records of an experiment can answer: submission folder -> what it lacks.

    Raises:
        InputError: no record of a RAFT task, or a file that is not what it should be.
    """
    records = [record for record in finished(folder) if record["dataset"].startswith(PREFIX)]
    if not records:
        raise InputError(f"{folder}: no records of RAFT tasks (run `python -m experiments.run experiment=raft` first)")
    lacks: dict[Path, list[str]] = {}
    answered: dict[Path, set[str]] = {}
    for record in records:
        target = folder / "submissions" / f"{record['method']}-{record['model']}-{record['seed']}"
        task = record["dataset"].removeprefix(PREFIX)
        if task in answered.setdefault(target, set()):
            raise InputError(f"{folder}: {target.name} answers {task} twice (two settings of one experiment?)")
        answered[target].add(task)
        table = predictions(folder, record)
        file = target / "data" / task / "predictions.csv"
        file.parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(file, index=False)
        if record["provenance.config"]["limit"] is not None:
            lacks.setdefault(target, []).append(f"{task} has the first {len(table)} rows only")
    for target, tasks in answered.items():
        lacks.setdefault(target, []).extend(f"{task} is missing" for task in TASKS if task not in tasks)
    return lacks


def predictions(folder: Path, record: dict[str, Any]) -> pd.DataFrame:
    """ID and Label of every test row: the choice of highest normalised score, as RAFT writes that label."""
    config = record["provenance.config"]
    names = {index: name for name, index in config["dataset"]["labels"].items()}
    scores = pd.read_parquet(folder / "predictions" / f"{record['run_id']}.parquet")
    choices = predicted(scores, config["norm"])
    return pd.DataFrame({"ID": choices.index.astype(int), "Label": [names[choice] for choice in choices]})


def predicted(scores: pd.DataFrame, norm: str) -> pd.Series:
    """Row -> predicted choice, in the table's order. Templates vote with their mean score."""
    values = pd.Series(normalised({str(name): column for name, column in scores.items()}, norm), index=scores.index)
    per_choice = values.groupby([scores.uid, scores.choice], sort=False).mean().unstack()
    return per_choice.loc[scores.uid.unique()].idxmax(axis=1)


def main() -> None:
    with one_clear_line():
        folder = experiment_folder(__doc__)
        if folder is None:
            return
        found = submit(folder)
    for target, missing in found.items():
        print(target, "complete" if not missing else f"INCOMPLETE: {'; '.join(missing)}", sep=": ")


if __name__ == "__main__":
    main()
