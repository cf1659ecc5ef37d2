"""Training in bfloat16 finds what training in float32 finds: steps too small for a bfloat16 weight are not lost."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import Tensor

from adaptbench.config import Config, register_schemas, resolve
from adaptbench.models.backbone import load
from adaptbench.runner import prepare_cell
from experiments.commandline import CONF

SEEDS, STEPS = 6, 40
METHODS = (
    *("full_ft", "t_few", "ia3", "lora", "adapter", "adapter_houlsby", "adapter_pfeiffer", "bitfit", "layernorm"),
    *(
        "compacter",
        "compacter_pp",
        "prefix",
        "prompt_10",
        "intrinsic_said_20k",
        "fish_mask_02",
        "unipelt",
        "unipelt_pt",
    ),
    "hf_peft",
)


def cell(method: str, dtype: str, *more: str) -> Config:
    seeds = ",".join(map(str, range(SEEDS)))
    settings = ["model=micro_t0", f"model.dtype={dtype}", "dataset=micro_rte", "recipe=micro", f"seeds=[{seeds}]"]
    register_schemas()
    with initialize_config_dir(CONF, version_base="1.3"):
        return resolve(compose("config", [f"method={method}", *settings, *more]))


def losses(config: Config) -> Tensor:
    """(steps, R) training losses."""
    task = prepare_cell(config)
    method = replace(config.method, steps=STEPS)
    groups: Sequence = [task.few_shot_sets] if method.fuses else [[one] for one in task.few_shot_sets[:4]]
    logs = [
        method.adapt(load(config.model, "cpu"), task.task, group, config.recipe, config.template).log
        for group in groups
    ]
    return torch.cat([torch.tensor(log.losses) for log in logs], dim=1)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_the_loss_in_bfloat16_is_that_in_float32(method):
    """Averaged over steps and runs: single runs differ by luck, since every product is rounded otherwise."""
    single, half = (losses(cell(method, dtype)) for dtype in ("float32", "bfloat16"))
    print(method, single[0].mean(), half[0].mean(), single.mean(), half.mean(), half.mean() / single.mean())
    assert single[-5:].mean() < 0.97 * single[0].mean()  # it trains
    assert half.mean().item() == pytest.approx(single.mean().item(), rel=0.02)
