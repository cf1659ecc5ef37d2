"""Experiments made up for the tests: records and predictions as the runner writes them, with answers known before."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# method -> (accuracy, share of 1,000,000 parameters updated, FLOPs to predict, FLOPs to adapt)
METHODS: dict[str, tuple[float, float, float, float]] = {
    "ia3": (0.80, 0.002, 2.0e8, 3.0e11),
    "lora": (0.78, 0.02, 2.0e8, 3.1e11),
    "adapter": (0.75, 0.03, 2.1e8, 3.2e11),
    "prefix": (0.68, 0.004, 2.2e8, 3.3e11),
    "bitfit": (0.70, 0.006, 2.0e8, 3.0e11),
    "full_ft": (0.76, 1.0, 2.0e8, 4.5e11),
    "zero_shot": (0.55, 0.0, 2.0e8, 0.0),
    "icl": (0.60, 0.0, 4.0e9, 0.0),
}
DATASETS = ("micro_cb", "micro_copa", "micro_rte", "micro_story", "micro_wic", "micro_wsc")
CHOICES = {"micro_cb": 3, "micro_copa": 2}


def predictions(correct: np.ndarray, choices: int = 2) -> pd.DataFrame:
    """One row per item and choice; the label wins by log-likelihood per token exactly where `correct` is 1."""
    items = len(correct)
    label = np.arange(items) % choices
    told = np.where(correct.astype(bool), label, (label + 1) % choices)
    choice = np.tile(np.arange(choices), items)
    tokens = 1 + (np.repeat(np.arange(items), choices) + choice) % 3
    per_token = np.where(choice == np.repeat(told, choices), -1.0, -2.0)
    return pd.DataFrame(
        {
            "uid": [f"item-{i}" for i in range(items) for _ in range(choices)],
            "template": "plain",
            "label": np.repeat(label, choices),
            "choice": choice,
            "log_likelihood": per_token * tokens,
            "tokens": tokens,
            "characters": 4 * tokens,
            "bytes": 5 * tokens,
        }
    )


def record(run_id: str, **changes: Any) -> dict[str, Any]:
    """A complete record of an (IA)^3 run; `changes` by dotted key."""
    content = {
        "run_id": run_id,
        "schema": 1,
        "experiment": "made_up",
        "method": "ia3",
        "model": "micro_t0",
        "dataset": "micro_rte",
        "template": "random",
        "seed": 0,
        "shots": 32,
        "metric": "accuracy",
        "score": 0.75,
        "chance": 0.5,
        "n_eval": 4,
        "params.trainable": 2_000,
        "params.total": 1_000_000,
        "flops.adapt.measured": 3e11,
        "flops.adapt.paper": 2.5e11,
        "flops.predict.measured": 2e8,
        "flops.predict.paper": 1.5e8,
        "memory.adapt.peak_bytes": 300_000_000,
        "memory.predict.peak_bytes": 200_000_000,
        "memory.kv_cache_bytes": 0,
        "storage.bytes": 8_500,
        "seconds.adapt": 4.5,
        "seconds.predict": 1.25,
        "provenance.config": {"norm": "token", "method": {"name": "ia3", "rank": 4}},
        "provenance.versions": {"torch": "2.13.0", "python": "3.11.9"},
        "provenance.git": {"commit": "0123456789abcdef", "dirty": False},
        "provenance.hardware": {"cpu": "a <fast> one", "cores": 2},
        "provenance.device": "cpu",
        "provenance.dtype": "float32",
        "provenance.data_sha256": "ab" * 32,
        "provenance.started": "2026-01-01T10:00:00+00:00",
        "provenance.finished": "2026-01-01T10:00:06+00:00",
        "provenance.fused_with": [1, 2],
    }
    return content | changes


def stage(flops, before=None, **more):
    """What a record says of a pre-training."""
    said = {"objective": "mlm", "start": "minilm_l6", "corpus": ["texts"], "flops": flops, "seconds": flops / 1e10}
    return {**said, "storage_bytes": 100, "tokens": 1000, **more, "before": before}


def bill(last):
    """A record's fields on a pre-training and those before it; null without one."""
    total = {"flops": None, "seconds": None}
    said = last
    while said is not None:
        total = {name: (total[name] or 0) + said[name] for name in total}
        said = said["before"]
    return {"pretraining.flops": total["flops"], "pretraining.seconds": total["seconds"],
            "provenance.pretraining": last}  # fmt: skip


def write_run(folder: Path, content: dict[str, Any], correct: np.ndarray | None = None, choices: int = 2) -> None:
    """A record, its score that of `correct` where given, and the predictions behind it."""
    (folder / "records").mkdir(parents=True, exist_ok=True)
    (folder / "predictions").mkdir(exist_ok=True)
    if correct is not None:
        content = content | {"score": float(np.mean(correct)), "n_eval": len(correct)}
        predictions(np.asarray(correct), choices).to_parquet(folder / "predictions" / f"{content['run_id']}.parquet")
    (folder / "records" / f"{content['run_id']}.json").write_text(json.dumps(content))


def write_failure(folder: Path, run_id: str, **changes: Any) -> None:
    content = {
        "run_id": run_id,
        "experiment": "made_up",
        "method": "prefix",
        "model": "micro_t0",
        "dataset": "micro_wsc",
        "seed": 4,
        "error": "OutOfMemoryError: 12 GB wanted",
        "traceback": "Traceback (most recent call last):\n  ...\nOutOfMemoryError: 12 GB wanted",
        "time": "2026-01-01T10:00:00+00:00",
    }
    (folder / "failures").mkdir(parents=True, exist_ok=True)
    (folder / "failures" / f"{run_id}.json").write_text(json.dumps(content | changes))


def write_experiment(
    folder: Path,
    methods: tuple[str, ...] = tuple(METHODS),
    datasets: tuple[str, ...] = DATASETS,
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4),
    items: int = 64,
    rng_seed: int = 0,
) -> Path:
    """A whole sweep: zero-shot once per dataset, everything else once per seed."""
    rng = np.random.default_rng(rng_seed)
    for d, dataset in enumerate(datasets):
        difficulty = rng.normal(0, 0.15, items) + 0.04 * (d - 2)
        for method in methods:
            level, share, predict, adapt = METHODS[method]
            for seed in seeds if method != "zero_shot" else seeds[:1]:
                draw = 0.0 if method == "zero_shot" else rng.normal(0, 0.03)
                correct = (rng.random(items) < np.clip(level + difficulty + draw, 0.02, 0.98)).astype(float)
                choices = CHOICES.get(dataset, 2)
                content = record(
                    f"{method}-{dataset}-{seed}",
                    **{
                        "method": method,
                        "model": "micro_gpt_l" if method == "icl" else "micro_t0",
                        "dataset": dataset,
                        "seed": seed,
                        "shots": 0 if method == "zero_shot" else 32,
                        "chance": 1 / choices,
                        "params.trainable": round(1e6 * share),
                        "flops.predict.measured": predict * (1 + 0.01 * d),
                        "flops.predict.paper": 0.8 * predict,
                        "flops.adapt.measured": adapt,
                        "flops.adapt.paper": 0.8 * adapt,
                        "memory.kv_cache_bytes": 98_304 if method == "icl" else 0,
                        "storage.bytes": round(4e6 * share) + (500 if share else 0),
                    },
                )
                write_run(folder, content, correct, choices)
    return folder
