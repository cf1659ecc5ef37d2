"""Speed, side by side in one process: `make bench`, or `python -m experiments.bench --help`.

Every comparison runs both sides in turn, several times, and reports the ratio of each pair: ratios hold where a
machine's speed drifts. The outputs of both sides are checked to agree before anything is timed.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from adaptbench.data.batching import collate, encode
from adaptbench.data.example import TaskData
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.sources import load_task
from adaptbench.methods import METHODS
from adaptbench.methods.base import Adaptation, TrainedMethod
from adaptbench.models.backbone import Backbone, load_backbone
from adaptbench.preflight import check_output
from adaptbench.schema import DatasetConfig, RecipeConfig
from adaptbench.scoring.evaluate import evaluate
from adaptbench.scoring.rank import token_log_probabilities
from experiments.bench import RESULTS, write_results
from experiments.commandline import Options, at_least_one, one_clear_line, plain_name

SEEDS = (42, 1024, 0, 1, 32)


@dataclass(frozen=True)
class Comparison:
    """Two ways to the same result."""

    name: str
    ours: Callable[[], object]
    other: Callable[[], object]
    other_is: str


def fused_against_separate(backbone: Backbone, task: TaskData, kind: str, steps: int) -> Comparison:
    """Five seeds in one pass against the same five one after the other."""
    method = METHODS[kind](name=kind)
    assert isinstance(method, TrainedMethod)
    method = replace(method, steps=steps)
    recipe = RecipeConfig(name="bench")
    few_shot_sets = [draw(task, seed) for seed in SEEDS]

    def fused() -> Adaptation:
        return method.adapt(backbone, task, few_shot_sets, recipe)

    def separate() -> list[Adaptation]:
        return [method.adapt(backbone, task, [few_shot], recipe) for few_shot in few_shot_sets]

    prompts = evaluation_prompts(task, "random", limit=64)
    together = evaluate(fused(), prompts, batch_size=64)
    for run, adaptation in enumerate(separate()):
        theirs = evaluate(adaptation, prompts, batch_size=64)[0]
        predicted = partial(adaptation.task.prediction, norm="token")
        same = [predicted(a) == predicted(b) for a, b in zip(together[run], theirs, strict=True)]
        assert sum(same) >= 62, f"{kind}: fused and separate runs answer differently"
    return Comparison(f"train_{len(SEEDS)}_seeds_{kind}", fused, separate, "one seed after the other")


def packed_against_single(backbone: Backbone, task: TaskData) -> Comparison:
    """All choices of a prompt in one pass against a pass per choice."""
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(task, "random")[:64]]
    single = [replace(row, choices=(choice,)) for row in rows for choice in row.choices]
    packed_batch, single_batch = collate(rows, backbone.pad_id), collate(single, backbone.pad_id)

    @torch.inference_mode()
    def packed() -> torch.Tensor:
        return token_log_probabilities(backbone, packed_batch)

    @torch.inference_mode()
    def alone() -> torch.Tensor:
        return token_log_probabilities(backbone, single_batch)

    assert torch.allclose(packed()[packed_batch.target_mask], alone()[single_batch.target_mask], atol=1e-4)
    return Comparison(f"score_choices_{backbone.name}_{task.name}", packed, alone, "a pass for each choice")


def mixed_against_one_at_a_time(backbone: Backbone, task: TaskData, kind: str) -> Comparison:
    """A batch whose rows belong to eight tasks in turn, each with its own adapter, against a batch per adapter."""
    runs = 8
    adaptation = METHODS[kind](name=kind).prepare(backbone, range(runs))
    assert adaptation.delta is not None
    with torch.no_grad():
        for parameter in adaptation.delta.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    rows = [encode(adaptation.backbone, prompt) for prompt in evaluation_prompts(task, "random")[:64]]
    tasks = torch.arange(len(rows)) % runs
    batch = collate(rows, backbone.pad_id)
    singles = [METHODS[kind](name=kind).prepare(backbone, [0]) for _ in range(runs)]
    batches = [collate(rows[run::runs], backbone.pad_id) for run in range(runs)]
    for run, single in enumerate(singles):
        assert single.delta is not None
        single.delta.load_state_of(0, adaptation.delta.state_of(run))

    @torch.inference_mode()
    def mixed() -> torch.Tensor:
        with adaptation.serving(tasks):
            return token_log_probabilities(adaptation.backbone, batch)

    @torch.inference_mode()
    def one_at_a_time() -> list[torch.Tensor]:
        results = []
        for single, task_batch in zip(singles, batches, strict=True):
            with single.attached():
                results.append(token_log_probabilities(single.backbone, task_batch))
        return results

    together, apart = mixed(), one_at_a_time()
    for run, scores in enumerate(apart):
        assert torch.allclose(together[tasks == run].sum(2), scores.sum(2), atol=1e-3), f"{kind}: answers differ"
    return Comparison(f"serve_{runs}_tasks_{kind}", mixed, one_at_a_time, "a batch for each adapter")


def measure(comparison: Comparison, pairs: int) -> dict[str, object]:
    """Both sides in turn, `pairs` times, and the ratio other/ours of each pair: above 1, ours is faster."""
    seconds: dict[str, list[float]] = {"ours": [], "other": []}
    for _ in range(pairs):
        for side, run in (("ours", comparison.ours), ("other", comparison.other)):
            begun = time.perf_counter()
            run()
            seconds[side].append(time.perf_counter() - begun)
    ratios = [other / ours for ours, other in zip(seconds["ours"], seconds["other"], strict=True)]
    result = {
        "name": comparison.name,
        "against": comparison.other_is,
        "speedup": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        "seconds": {side: statistics.median(values) for side, values in seconds.items()},
        "pairs": pairs,
    }
    print(
        f"{comparison.name:40s} {statistics.median(ratios):5.2f}x ({min(ratios):.2f} to {max(ratios):.2f})", flush=True
    )
    return result


def main() -> None:
    parser = Options(prog="python -m experiments.bench", description=__doc__)
    parser.add_argument("--pairs", type=at_least_one, default=5, help="how often each pair is timed (default 5)")
    parser.add_argument("--steps", type=at_least_one, default=30, help="training steps of one timing (default 30)")
    parser.add_argument(
        "--name", type=plain_name, default="cpu", help="of the result file, <folder>/<name>.json (default cpu)"
    )
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results go (default %(default)s)")
    with one_clear_line():
        arguments = parser.parse_args()
        check_output(arguments.folder, "--folder")
    t5 = load_backbone("micro_t0", "microworld:micro_t0")
    rte = load_task(DatasetConfig(name="micro_rte", source="microworld"))
    hswag = load_task(DatasetConfig(name="micro_hswag", source="microworld"))
    comparisons = [
        fused_against_separate(t5, rte, kind, arguments.steps) for kind in ("ia3", "lora", "adapter", "prefix")
    ]
    comparisons += [packed_against_single(t5, hswag)]
    comparisons += [mixed_against_one_at_a_time(t5, rte, kind) for kind in ("ia3", "lora", "prompt")]
    comparisons += [packed_against_single(load_backbone("micro_gpt_l", "microworld:micro_gpt_l"), hswag)]
    results = [measure(comparison, arguments.pairs) for comparison in comparisons]
    write_results(arguments.folder, arguments.name, {"results": results})


if __name__ == "__main__":
    main()
