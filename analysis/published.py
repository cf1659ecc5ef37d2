"""The papers' own numbers (published/*.csv), in the shapes tables and figures need."""

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import pandas as pd

from adaptbench.metrics import metrics_for

FOLDER = Path(__file__).parent / "published"

# -- arXiv 2205.05638: published/tfew.csv -------------------------------------------------------------------------

PAPER = "arXiv 2205.05638"
PRINTED = metrics_for("label")[0].name  # what its tables print of every data set
PRINTED_LABEL = f"{metrics_for('label')[0].label.capitalize()}, %"


@lru_cache(maxsize=1)
def published() -> pd.DataFrame:
    """Every number of the paper's tables; see published/README for its columns."""
    return pd.read_csv(FOLDER / "tfew.csv")


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


def printed_name(dataset: str) -> str | None:
    """How the paper prints a data set of ours: micro_anli_r1 is its ANLI-R1. None for one that it does not have."""
    known = {name.lower().replace("-", "_"): name for name in published()["dataset"].dropna().unique()}
    return known.get(dataset.removeprefix("micro_").replace("hellaswag", "hswag").replace("hswag", "h_swag"))


def as_in_the_paper(records: pd.DataFrame) -> bool:
    """Whether some runs answer by choosing, on a data set of the paper or of the embedded world."""
    chosen = records[records["task"].fillna("choices") == "choices"] if "task" in records else records
    return any(
        name.startswith("micro_") or printed_name(name.removeprefix("open_").removeprefix("raft_")) is not None
        for name in chosen["dataset"].unique()
    )


# -- encoders: published/unipelt_pt.csv ---------------------------------------------------------------------------

PT_UNIPELT, UNIPELT, DONT_STOP, FAIRSEQ = "2405.05493", "2110.07577", "2004.10964", "fairseq_roberta"
SOURCES = {
    PT_UNIPELT: "arXiv 2405.05493",
    UNIPELT: "arXiv 2110.07577",
    DONT_STOP: "arXiv 2004.10964",
    FAIRSEQ: "fairseq, examples/roberta",
}
MARK = "†"
SECOND_HAND = (
    f"{MARK} second-hand: not read in the source itself, but in notes on it or a review that quotes it; approximate."
)
NOT_READ_THERE = ("secondary", "study notes", "other people")  # what such a number's source says
SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9}
METHODS = {  # what the sources' rows are called in tables
    "full_finetuning": "Full fine-tuning",
    "unipelt_adapterlib": "UniPELT (“Adapter Lib”)",
    "pt_unipelt_adapterlib": "PT + UniPELT (“Adapter Lib”)",
    "unipelt_paper": "UniPELT (“Paper”)",
    "pt_unipelt_paper": "PT + UniPELT (“Paper”)",
    "unipelt": "UniPELT",
    "pt_unipelt": "PT + UniPELT",
    "ia3+prefix+seqbn": "UniPELT with (IA)³",
    "unipelt_stack3": "UniPELT × 3",
    "unipelt_ap": "UniPELT (AP)",
    "unipelt_apl": "UniPELT (APL)",
    "unipelt_ap_nogate": "UniPELT (AP), no gates",
    "bitfit": "BitFit",
    "adapter": "Adapter",
    "lora": "LoRA",
    "prefix_tuning_L10": "Prefix tuning (10)",
    "prefix_tuning_L50": "Prefix tuning (50)",
    "baseline_roberta": "Full fine-tuning",
    "roberta": "Full fine-tuning",
    "dapt": "Full fine-tuning, DAPT",
    "tapt": "Full fine-tuning, TAPT",
    "dapt+tapt": "Full fine-tuning, DAPT + TAPT",
}


@lru_cache(maxsize=1)
def encoder_numbers() -> pd.DataFrame:
    """Every number on encoders, as text in `value` and `spread` and as a float in `number`.

    `source` says where a number was read, `second_hand` whether that is not the paper itself; `paper` and `place` are
    the two parts of `table`.
    """
    frame = pd.read_csv(FOLDER / "unipelt_pt.csv", dtype=str, keep_default_na=False)
    frame[["paper", "place"]] = frame["table"].str.partition(":")[[0, 2]]
    frame["second_hand"] = [any(said in source for said in NOT_READ_THERE) for source in frame["source"]]
    return frame.assign(number=frame["value"].map(number))


def number(text: str) -> float:
    """110M -> 110,000,000; nan for what is no number."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?(?:e-?\d+)?)([KMB]?)", text)
    return float(found[1]) * SUFFIXES.get(found[2], 1.0) if found else float("nan")


def printed_in(paper: str, place: str, **where: str) -> pd.DataFrame:
    """The rows of one place of a source, for instance its table, in the source's order."""
    frame = encoder_numbers()
    frame = frame[(frame["paper"] == paper) & (frame["place"] == place)]
    for column, value in where.items():
        frame = frame[frame[column] == value]
    return frame


def as_printed(row: pd.Series) -> str:
    """A number with its digits, its spread in brackets where there is one, and the mark of a second-hand one."""
    value = f"{int(row['value']):,}" if row["value"].isdigit() else row["value"]
    spread = f" ({row['spread']})" if row["spread"] else ""
    return value + spread + mark(row["second_hand"])


def mark(second_hand: bool) -> str:
    return MARK if second_hand else ""


def footnotes(frames: Iterable[pd.DataFrame]) -> list[str]:
    """What the mark means, where a second-hand number is among what is printed."""
    return [SECOND_HAND] if any(frame["second_hand"].any() for frame in frames) else []
