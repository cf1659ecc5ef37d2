"""An experiment small enough to keep: `python -m analysis.archive outputs/<experiment> docs/results/<experiment>`.

Three files: all records and all failures as compressed lines, and what each run's metric counts of every item (was the
answer right?) under each length normalisation. `python -m analysis.report` reads an archive as it reads the folder it
was made of, and writes the same page. What is left out: adapters, prompts, and the log-likelihoods behind the answers.
"""

import gzip
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from adaptbench.metrics import get
from analysis.collect import Arguments, Experiment, ReportError, load, packed, read_all


def pack(folder: Path, target: Path) -> list[Path]:
    """Write the archive of an experiment and return its files.

    Raises:
        ReportError: nothing to keep, or a file that is not what it should be.
    """
    experiment = load(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = [pack_lines(folder, kind, target / f"{kind}.jsonl.gz") for kind in ("records", "failures")]
    right = outcomes(experiment)
    if not right.empty:
        written.append(target / "outcomes.parquet")
        right.to_parquet(written[-1], index=False, compression="zstd", compression_level=15)
    return written


def pack_lines(folder: Path, kind: str, target: Path) -> Path:
    """The same content has the same bytes: sorted, and without the time of packing."""
    contents = sorted((content for content, _ in read_all(folder, kind)), key=lambda content: content["run_id"])
    lines = map(json.dumps, contents)
    target.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
    return target


def outcomes(experiment: Experiment) -> pd.DataFrame:
    """One row per run and item: what its metric counts of it, under each normalisation."""
    frames = []
    for run_id, metric in zip(experiment.records["run_id"], experiment.records["metric"], strict=True):
        found = experiment.judged(run_id, get(metric))
        if found is not None:
            frames.append(packed(found).astype("float32").reset_index().assign(run_id=run_id))
    joined = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=["run_id", "uid"])
    return joined.astype({"run_id": "category", "uid": "category"})


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Arguments(prog="python -m analysis.archive", description=__doc__)
    parser.add_argument("folder", type=Path, help="outputs/<experiment>, with records/*.json in it")
    parser.add_argument("target", type=Path, help="where the archive goes")
    try:
        given = parser.parse_args(arguments)
        written = pack(given.folder, given.target)
    except (ReportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(f"{path}  {path.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
