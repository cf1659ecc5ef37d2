"""What adapting takes with the pre-training that a run's model has been through here (DAPT, TAPT, or one on the other).

A *stage* is one continued pre-training: what `provenance.pretraining` says of the last, and `before` of the one that it
started from. Whoever adapts to several data sets pays for a stage once, so it is shared out over the data sets of the
experiment with runs that start from it, however many methods and seeds they have.
"""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

ADAPTING, SECONDS = "flops.adapt.whole", "seconds.adapt.whole"  # of a run, its share of pre-training included
OWN = {ADAPTING: ("flops.adapt.measured", "flops"), SECONDS: ("seconds.adapt", "seconds")}  # and what a stage calls it
SHARED = (
    "{} hold a run's share of the pre-training that its model started from (DAPT, TAPT): each such pre-training is "
    "shared out over the data sets of this experiment with runs that start from it."
)


def with_pretraining(records: pd.DataFrame) -> pd.DataFrame:
    """Adds `ADAPTING` and `SECONDS`; without pre-training they are what adapting itself took."""
    if records.empty:
        return records
    chains = [list(stages(said)) for said in said_of(records)]
    users: dict[str, set[str]] = {}  # stage -> data sets
    for dataset, chain in zip(records["dataset"], chains, strict=True):
        for stage in chain:
            users.setdefault(identity(stage), set()).add(dataset)
    whole = {}
    for column, (own, name) in OWN.items():
        # a record that does not say what its pre-training was cannot share it
        unknown = records.get(f"pretraining.{name}", pd.Series(0.0, index=records.index)).fillna(0)
        shares = [
            sum(cost_of(stage, name) / len(users[identity(stage)]) for stage in chain) if chain else alone
            for chain, alone in zip(chains, unknown, strict=True)
        ]
        whole[column] = records[own] + pd.Series(shares, index=records.index, dtype=float)
    return records.assign(**whole)


def said_of(records: pd.DataFrame) -> pd.Series:
    """What each record says of its model's pre-training; not a dictionary where there was none."""
    return records.get("provenance.pretraining", pd.Series(None, index=records.index, dtype=object))


def stages(said: Any) -> Iterator[dict[str, Any]]:
    """The last stage, the one before it, and so on; nothing for a model as it was found."""
    while isinstance(said, dict):
        yield said
        said = said.get("before")


def identity(stage: dict[str, Any]) -> str:
    """What tells a stage from all others: the hashes of its weights and corpus, or else everything said of it."""
    known = [stage["sha256"], stage.get("corpus_sha256")] if stage.get("sha256") else stage
    return json.dumps(known, sort_keys=True, default=str)


def cost_of(stage: dict[str, Any], name: str) -> float:
    """nan where it was not measured."""
    value = stage.get(name)
    return float("nan") if value is None else float(value)


def any_pretraining(records: pd.DataFrame) -> bool:
    """Whether some run's model was pre-trained further before it was adapted."""
    billed = "pretraining.flops" in records and bool(records["pretraining.flops"].notna().any())
    return billed or any(isinstance(said, dict) for said in said_of(records))
