"""The paper's own numbers (published/tfew.csv), in the shapes tables and figures need."""

from functools import lru_cache
from pathlib import Path

import pandas as pd

PAPER = "arXiv 2205.05638"


@lru_cache(maxsize=1)
def published() -> pd.DataFrame:
    """Every number of the paper's tables; see published/README for its columns."""
    return pd.read_csv(Path(__file__).parent / "published" / "tfew.csv")


def published_table1() -> pd.DataFrame:
    """One row per method and model, columns flops_inference, flops_training, disk, accuracy (percent)."""
    rows = published().query("table == 'table1'")
    wide = rows.pivot(index=["method", "model"], columns="metric", values="value")
    return wide.reindex(pd.MultiIndex.from_frame(rows[["method", "model"]].drop_duplicates())).reset_index()


def published_table4() -> pd.DataFrame:
    """One row per method of T0-3B: the mean of the printed datasets' accuracy (percent), and the share updated.

    The share is of the printed size of full fine-tuning, so that it is 100 % there.
    """
    rows = published().query("table == 'table4'")
    accuracy = rows.query("metric == 'accuracy' and dataset != 'average'").groupby("method", sort=False)["value"].mean()
    updated = rows.query("metric == 'params_updated'").set_index("method")["value"]
    frame = pd.DataFrame({"accuracy": accuracy, "params_updated": updated.reindex(accuracy.index)})
    frame["percent_updated"] = 100 * frame["params_updated"] / updated["full_ft"]
    return frame.reset_index()
