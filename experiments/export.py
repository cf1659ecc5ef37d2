"""Finished runs in lm-evaluation-harness's files: `python -m experiments.export outputs/<experiment>`.

For every method, model and seed it writes `<experiment>/lm_eval/<method>-<model>-<seed>/results_<date>.json` and a
`samples_<dataset>_<date>.jsonl` per dataset, in the layout of lm-evaluation-harness 0.4.13, for the viewers and scripts
that read it. `acc`, `acc_norm` and `acc_bytes` are its metrics; `acc_token` is the paper's, which it does not have.
Demonstrations are part of a method and not of a sample's prompt; `n-shot` counts them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from adaptbench.errors import InputError
from experiments.commandline import one_clear_line
from experiments.finished import experiment_folder, finished

# Its metric -> our column of lengths that a choice's log-likelihood is divided by; None for no division.
METRICS = {"acc": None, "acc_norm": "characters", "acc_bytes": "bytes", "acc_token": "tokens"}


def export(folder: Path) -> list[Path]:
    """Write all that the records of an experiment hold, and return the result files.

    Raises:
        InputError: no finished run, or a file that is not what it should be.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in finished(folder):
        groups.setdefault(f"{record['method']}-{record['model']}-{record['seed']}", []).append(record)
    if not groups:
        raise InputError(f"{folder}: no finished run in records/*.json")
    return [_write(folder, folder / "lm_eval" / name, records) for name, records in groups.items()]


def _write(folder: Path, target: Path, records: list[dict[str, Any]]) -> Path:
    target.mkdir(parents=True, exist_ok=True)
    date = max(record["provenance.finished"] for record in records)[:19].replace(":", "-")
    results, hashes = {}, {}
    for record in records:
        if (task := record["dataset"]) in results:
            raise InputError(f"{folder}: {target.name} answers {task} twice (two settings of one experiment?)")
        found = samples(folder, record)
        lines = [json.dumps(sample, ensure_ascii=False) for sample in found]
        (target / f"samples_{task}_{date}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        results[task] = {"alias": task, "sample_len": len(found), **_aggregate(found)}
        hashes[task] = _sha(
            "".join(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in found)
        )
    path = target / f"results_{date}.json"
    path.write_text(json.dumps(_document(target.name, records, results, hashes), indent=2), encoding="utf-8")
    return path


def _document(
    name: str, records: list[dict[str, Any]], results: dict[str, Any], hashes: dict[str, str]
) -> dict[str, Any]:
    first, tasks = records[0], {record["dataset"]: record for record in records}
    config, model = first["provenance.config"], first["provenance.config"]["model"]
    return {
        "results": results,
        "group_subtasks": {task: [] for task in tasks},
        "configs": {
            task: {
                "task": task,
                "output_type": "multiple_choice",
                "num_fewshot": record["shots"],
                "metric_list": [{"metric": metric, "higher_is_better": True} for metric in METRICS],
                "metadata": {"template": record["template"], "method": record["provenance.config"]["method"]},
            }
            for task, record in tasks.items()
        },
        "versions": dict.fromkeys(tasks, 1),
        "n-shot": {task: record["shots"] for task, record in tasks.items()},
        "higher_is_better": {task: dict.fromkeys(METRICS, True) for task in tasks},
        "n-samples": {
            task: {"original": record["n_eval"], "effective": record["n_eval"]} for task, record in tasks.items()
        },
        "config": {
            "model": "adaptbench",
            "model_args": {"pretrained": model["path"], "dtype": model["dtype"], "method": first["method"]},
            "model_num_parameters": first["params.total"],
            "model_dtype": first["provenance.dtype"],
            "device": first["provenance.device"],
            "limit": config["limit"],
            "random_seed": first["seed"],
            "fewshot_seed": first["seed"],
        },
        "git_hash": (first["provenance.git"] or {}).get("commit"),
        "task_hashes": hashes,
        "model_source": "adaptbench",
        "model_name": name,
        "model_name_sanitized": name,
    }


def samples(folder: Path, record: dict[str, Any]) -> list[dict[str, Any]]:
    """One dictionary per prompt, as the harness logs it."""
    scores = pd.read_parquet(folder / "predictions" / f"{record['run_id']}.parquet")
    prompts = pd.read_parquet(folder / "prompts" / f"{record['provenance.prompts']}.parquet")
    found = []
    groups = scores.groupby(["uid", "template"], sort=False)
    for number, ((_, rows), prompt) in enumerate(zip(groups, prompts.to_dict("records"), strict=True)):
        choices = list(prompt["choices"])
        doc = {key: prompt[key] for key in ("uid", "template", "input", "label")} | {"choices": choices}
        values = rows.log_likelihood.to_numpy()
        best = int(values.argmax())
        answers = [[str(value), str(index == best)] for index, value in enumerate(values)]
        right = {
            metric: float(int((values / (rows[length].to_numpy() if length else 1)).argmax()) == prompt["label"])
            for metric, length in METRICS.items()
            if prompt["label"] >= 0
        }
        found.append(
            {
                "doc_id": number,
                "doc": doc,
                "target": str(prompt["label"]),
                "arguments": {
                    f"gen_args_{index}": {"arg_0": prompt["input"], "arg_1": f" {choice}"}
                    for index, choice in enumerate(choices)
                },
                "resps": [[answer] for answer in answers],
                "filtered_resps": answers,
                "filter": "none",
                "metrics": list(right),
                "doc_hash": _sha(json.dumps(doc, indent=2, ensure_ascii=False)),
                "prompt_hash": _sha(prompt["input"]),
                "target_hash": _sha(str(prompt["label"])),
                **right,
            }
        )
    return found


def _aggregate(logged: list[dict[str, Any]]) -> dict[str, float]:
    """Means and their standard errors over items, under the harness's names. Unlabelled rows have none."""
    values: dict[str, float] = {}
    for metric in logged[0]["metrics"]:
        right = np.array([sample[metric] for sample in logged])
        values[f"{metric},none"] = float(right.mean())
        values[f"{metric}_stderr,none"] = float(right.std(ddof=1) / np.sqrt(len(right))) if len(right) > 1 else 0.0
    return values


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def main() -> None:
    with one_clear_line():
        folder = experiment_folder(__doc__)
        if folder is None:
            return
        written = export(folder)
    print(f"{len(written)} result files in {written[0].parent.parent}")


if __name__ == "__main__":
    main()
