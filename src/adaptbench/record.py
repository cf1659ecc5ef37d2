"""A finished run as one flat JSON file, and the folder that keeps them. The analysis reads these and nothing else."""

import json
import os
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

SCHEMA = 4  # of what a run's id hashes; records of an older one are not found again, and reports leave them out

# Every record has these. Some have more: `flops.predict.merged` (per example, with the adapter folded into the
# weights; null where that is impossible), `provenance.trained_parameters` (those of training, where a
# reparameterisation is folded away afterwards), `provenance.demonstrations`, `provenance.final_loss`,
# `provenance.halvings` (how often memory ran out and a pass was repeated with half its rows or choices),
# `provenance.slices` (in how many passes the choices of a row were read at most: FLOPs are those of one),
# `params.non_embedding` (of the model, without the matrices that words are looked up and predicted with),
# `provenance.weights` ("dequantised from Q4_1", of a GGUF file), `params.stored`, `params.trained`, `params.served`
# and `params.head` (what is kept, what followed gradients, what a prediction computes with in addition, all without
# the head; and the head), `steps`, `development.*` (the rows on which the best state was chosen, its score and step,
# how often they were scored), `pretraining.*` (what the continued pre-training of the model took, as a whole: it is
# shared by all runs that start from it), `forgetting.nats_per_token` (how much worse general text is continued after
# tuning, where it was asked for), `answers.*` (of generated texts: their mean length in tokens, the shares that are
# empty or stand in their prompt word for word), `provenance.dropped_rows` (training rows left out: reason -> how many).
KEYS = (
    *("run_id", "schema", "experiment", "method", "model", "dataset", "template", "seed", "shots", "metric"),
    *("score", "chance", "n_eval", "params.trainable", "params.total"),
    *("flops.adapt.measured", "flops.adapt.paper", "flops.predict.measured", "flops.predict.paper"),
    *("memory.adapt.peak_bytes", "memory.predict.peak_bytes", "memory.kv_cache_bytes"),
    *("storage.bytes", "seconds.adapt", "seconds.predict"),
    *("provenance.config", "provenance.versions", "provenance.git", "provenance.hardware"),
    *("provenance.device", "provenance.dtype", "provenance.data_sha256"),
    *("provenance.started", "provenance.finished", "provenance.fused_with"),
)


@dataclass(frozen=True)
class RunRecord:
    """One finished run: the flat keys of `KEYS`, null where a quantity could not be measured, and extras."""

    values: dict[str, Any]

    def __post_init__(self) -> None:
        missing = [key for key in KEYS if key not in self.values]
        if missing:
            raise ValueError(f"record lacks {', '.join(missing)}")

    @property
    def run_id(self) -> str:
        return self.values["run_id"]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]


class RunStore:
    """outputs/<experiment>/: a record is there if and only if its run finished."""

    def __init__(self, root: Path):
        self.root = root

    def path(self, kind: str, run_id: str, suffix: str) -> Path:
        return self.root / kind / f"{run_id}{suffix}"

    def load(self, run_id: str) -> RunRecord | None:
        """The record of a finished run, or None."""
        path = self.path("records", run_id, ".json")
        return RunRecord(json.loads(path.read_text())) if path.is_file() else None

    def adapter_folder(self, run_id: str) -> Path:
        return self.root / "adapters" / run_id

    def write_predictions(self, run_id: str, table: pd.DataFrame) -> None:
        self._atomically(self.path("predictions", run_id, ".parquet"), lambda path: table.to_parquet(path, index=False))

    def write_prompts(self, name: str, table: pd.DataFrame) -> None:
        """The evaluated prompts, once for all runs that share them: predictions hold scores and no text."""
        path = self.path("prompts", name, ".parquet")
        if not path.is_file():
            self._atomically(path, lambda temporary: table.to_parquet(temporary, index=False))

    def write(self, record: RunRecord) -> None:
        """Write a record last, once everything else of its run is on disk; an earlier failure is forgotten."""
        text = json.dumps(record.values, indent=1, allow_nan=False)
        self._atomically(self.path("records", record.run_id, ".json"), lambda path: path.write_text(text))
        self.path("failures", record.run_id, ".json").unlink(missing_ok=True)

    def write_failure(self, run_id: str, identity: dict[str, Any], error: BaseException | str) -> None:
        """Say what went wrong; the run is tried again next time."""
        trace = "".join(traceback.format_exception(error)) if isinstance(error, BaseException) else None
        values = {**identity, "run_id": run_id, "error": str(error), "traceback": trace, "time": now()}
        text = json.dumps(values, indent=1, default=str)
        self._atomically(self.path("failures", run_id, ".json"), lambda path: path.write_text(text))

    @staticmethod
    def _atomically(target: Path, write: Callable[[Path], Any]) -> None:
        """Temporary file, fsync, rename: a crash leaves the whole file or none."""
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=target.suffix + ".tmp")
        os.close(handle)
        temporary = Path(name)
        try:
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
