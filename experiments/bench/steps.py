"""A model's real training step at its published shape with random weights: time, tokens/s, FLOP/s and memory.

    python -m experiments.bench.steps --model t0_3b --methods ia3 lora adapter prefix full_ft --runs 1 5 --name h200

Weights are drawn on the device, so nothing is downloaded: speed and memory depend on shapes only. The batch is the
paper's, 8 examples of 103 tokens. FLOPs are counted per run on the meta device, the memory estimate likewise. Needs an
accelerator for the large shapes; any shape works on a CPU (`--model micro_t0`), where memory is not measured here.
"""

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from adaptbench.config import register_schemas, resolve
from adaptbench.costs.flops import count
from adaptbench.costs.lengths import Lengths
from adaptbench.costs.measured import accelerator_peak
from adaptbench.costs.memory import train_memory
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Batch, Shape
from adaptbench.methods.base import Adaptation
from adaptbench.models.attention import IMPLEMENTATION
from adaptbench.models.backbone import NO_LIMIT, Backbone, load_config, pick_device
from adaptbench.preflight import check_output
from adaptbench.schema import Config
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.losses import per_run_loss
from adaptbench.training.optim import RunOptimizer, update_rule
from experiments.bench import RESULTS, write_results
from experiments.commandline import CONF, Options, at_least_one, one_clear_line, plain_name


def random_backbone(config: Config, device: torch.device) -> Backbone:
    """The model's architecture with freshly drawn weights, on the device."""
    model, dtype = config.model, getattr(torch, config.model.dtype)
    shape = AutoConfig.for_model(**model.shape) if model.shape else load_config(model.path)
    auto = AutoModelForSeq2SeqLM if shape.is_encoder_decoder else AutoModelForCausalLM
    torch.manual_seed(0)
    with torch.device(device):
        drawn = auto.from_config(shape, dtype=dtype, attn_implementation=IMPLEMENTATION)
    drawn.requires_grad_(False).train()
    return Backbone(model.name, drawn, None, device, dtype, NO_LIMIT)


def random_batch(shape: Shape, vocabulary: int, device: torch.device) -> Batch:
    """Random ids, nothing padded."""
    source = torch.randint(3, vocabulary, (shape.rows, shape.source), device=device)
    targets = torch.randint(3, vocabulary, (shape.rows, shape.choices, shape.target), device=device)
    label = torch.zeros(shape.rows, dtype=torch.long, device=device)
    return Batch(source, torch.ones_like(source).bool(), targets, torch.ones_like(targets).bool(), label)


def training_step(adaptation: Adaptation, config: Config, runs: int, shape: Shape) -> Callable[[], None]:
    """A step of `runs` fused runs, each with a batch of this shape of its own; call it as often as you like."""
    backbone = adaptation.backbone
    optimizer = RunOptimizer(adaptation.parameters, update_rule(config.recipe), runs, adaptation.delta is not None)
    vocabulary = backbone.model.config.vocab_size
    batch = random_batch(
        Shape(runs * shape.rows, shape.source, shape.choices, shape.target), vocabulary, backbone.device
    )
    alive = torch.ones(runs, dtype=torch.bool, device=backbone.device)

    def step() -> None:
        with adaptation.attached():
            optimizer.zero_grad()
            log_p = token_log_probabilities(backbone, batch)
            per_run_loss(config.recipe.losses, log_p, batch.target_mask, batch.label, runs).sum().backward()
            optimizer.step(1e-4, config.recipe.clip_norm, alive)

    return step


def measure(backbone: Backbone, config: Config, runs: int, steps: int, shape: Shape) -> dict[str, object]:
    """Median seconds of a step and what follows from them, and the peak of the third step."""
    adaptation, device = config.method.prepare(backbone, seeds=list(range(runs))), backbone.device
    step = training_step(adaptation, config, runs, shape)
    for _ in range(2):  # allocates the optimizer's state and lets kernels be chosen
        step()
    peak = accelerator_peak(step, device) if device.type != "cpu" else None
    if peak and adaptation.tuned:  # it trains a copy; the base model that lies beside it belongs to the other methods
        peak -= sum(parameter.nbytes for parameter in backbone.model.parameters())
    seconds = []
    for _ in range(steps):
        begun = time.perf_counter()
        step()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        seconds.append(time.perf_counter() - begun)
    typical, tokens = statistics.median(seconds), shape.rows * (shape.source + shape.choices * shape.target)
    meta = MetaRun.of(config.method, backbone, config.recipe)
    flops, estimate = count(lambda: meta.forward_backward(shape)), train_memory(meta, shape)
    return {
        "model": config.model.name,
        "method": config.method.name,
        "runs": runs,
        "seconds_per_step": typical,
        "seconds_min_max": [min(seconds), max(seconds)],
        "tokens_per_second": runs * tokens / typical,
        "flops_per_run": flops,
        "achieved_flops_per_second": runs * flops / typical,
        "peak_bytes": peak,
        "estimated_bytes_one_run": estimate.peak,
        "estimated_items": asdict(estimate),
        "peak_over_estimate": peak / estimate.peak if peak and runs == 1 else None,
    }


def main() -> None:
    parser = Options(prog="python -m experiments.bench.steps", description=__doc__)
    parser.add_argument("--model", default="t0_3b", help="an option of conf/model (default t0_3b)")
    parser.add_argument("--methods", nargs="+", default=["ia3", "lora", "adapter", "prefix"], help="of conf/method")
    parser.add_argument("--runs", nargs="+", type=at_least_one, default=[1, 5], help="fused runs (default 1 5)")
    parser.add_argument("--steps", type=at_least_one, default=20, help="timed steps (default 20)")
    parser.add_argument(
        "--input-tokens", type=at_least_one, default=Lengths().input, help="default: the paper's median"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--name", type=plain_name, default="steps", help="of the result file, <folder>/<name>.json")
    parser.add_argument("--folder", type=Path, default=RESULTS, help="where results go (default %(default)s)")
    with one_clear_line():
        given = parser.parse_args()
        check_output(given.folder, "--folder")
        register_schemas()
        with initialize_config_dir(CONF, version_base="1.3"):
            configs = [resolve(compose("config", ["recipe=tfew", f"model={given.model}", f"method={m}"]))
                       for m in given.methods]  # fmt: skip
        device = torch.device(pick_device(given.device))
        backbone = random_backbone(configs[0], device)
    results = []
    for config in configs:
        for runs in given.runs if config.method.fuses else [1]:
            shape = Lengths(input=given.input_tokens).shape(config.recipe.batch_size)
            results.append(measure(backbone, config, runs, given.steps, shape))
            print(json.dumps(results[-1]), flush=True)
            if device.type != "cpu":
                torch.accelerator.empty_cache()
    write_results(given.folder, given.name, {"results": results, "device": str(device)})


if __name__ == "__main__":
    main()
