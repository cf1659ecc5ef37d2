"""The paper's own numbers (published/tfew.csv), in the shapes tables and figures need."""

from functools import lru_cache
from pathlib import Path

import pandas as pd

from adaptbench.metrics import metrics_for

PAPER = "arXiv 2205.05638"
PRINTED = metrics_for("label")[0].name  # what its tables print of every data set
PRINTED_LABEL = f"{metrics_for('label')[0].label.capitalize()}, %"


@lru_cache(maxsize=1)
def published() -> pd.DataFrame:
    """Every number of the paper's tables; see published/README for its columns."""
    return pd.read_csv(Path(__file__).parent / "published" / "tfew.csv")


def published_table1() -> pd.DataFrame:
    """One row per method and model, columns flops_inference, flops_training, disk, score (percent)."""
    rows = published().query("table == 'table1'")
    wide = rows.pivot(index=["method", "model"], columns="metric", values="value").rename(columns={PRINTED: "score"})
    return wide.reindex(pd.MultiIndex.from_frame(rows[["method", "model"]].drop_duplicates())).reset_index()


def published_table4() -> pd.DataFrame:
    """One row per method of T0-3B: the mean of the printed datasets' scores (percent), and the share updated.

    The share is of the printed size of full fine-tuning, so that it is 100 % there.
    """
    rows = published().query("table == 'table4'")
    printed = rows[(rows["metric"] == PRINTED) & (rows["dataset"] != "average")]
    scores = printed.groupby("method", sort=False)["value"].mean()
    updated = rows.query("metric == 'params_updated'").set_index("method")["value"]
    frame = pd.DataFrame({"score": scores, "params_updated": updated.reindex(scores.index)})
    frame["percent_updated"] = 100 * frame["params_updated"] / updated["full_ft"]
    return frame.reset_index()
