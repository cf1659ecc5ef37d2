"""Train the embedded base models from nothing and save them with their provenance.

    python -m experiments.pretrain                      # both, into the package
    python -m experiments.pretrain models=[micro_t0]
    python -m experiments.pretrain fast=true output=/tmp/weights checkpoints=/tmp/checkpoints

Batch i is a function of (seed, i) alone, so a run that was killed continues from its last checkpoint as if nothing had
happened. One thread: at this size more threads cost more than they give, and one makes the result reproducible.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import torch
import transformers
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

from adaptbench.microworld import corpus, world
from adaptbench.microworld.tokenizer import BOS, EOS, PAD, build_tokenizer, vocabulary

Batch = dict[str, Tensor]


def t0_model(size: DictConfig) -> PreTrainedModel:
    """T5 v1.1: gated GELU, untied head."""
    model = T5ForConditionalGeneration(
        T5Config(  # type: ignore[call-arg]
            vocab_size=len(vocabulary()),
            d_model=size.d_model,
            d_ff=size.d_ff,
            d_kv=size.d_kv,
            num_heads=size.num_heads,
            num_layers=size.num_layers,
            num_decoder_layers=size.num_layers,
            feed_forward_proj="gated-gelu_pytorch_tanh",  # the same function as gelu_new, in one kernel
            tie_word_embeddings=False,
            dropout_rate=0.0,
            pad_token_id=PAD,
            eos_token_id=EOS,
            decoder_start_token_id=PAD,
        )
    )
    model.set_attn_implementation("eager")  # on a CPU the fused kernel's backward is slower than plain products
    # The head is untied but starts as the embedding (which makes copying a word easy to learn), scaled so that the
    # loss starts near log(vocabulary): the library's unit variance would start it at about 60.
    with torch.no_grad():
        model.lm_head.weight.copy_(model.shared.weight * size.d_model**-0.5)
    return model


def gpt_model(size: DictConfig) -> PreTrainedModel:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary()),
            hidden_size=size.hidden_size,
            intermediate_size=size.intermediate_size,
            num_attention_heads=size.num_heads,
            num_key_value_heads=size.num_heads,
            head_dim=size.head_dim,
            num_hidden_layers=size.num_layers,
            max_position_embeddings=1024,
            initializer_range=0.08,
            tie_word_embeddings=True,  # copying a word from the context then needs no table of words
            pad_token_id=PAD,
            bos_token_id=BOS,
            eos_token_id=EOS,
        )
    )
    model.set_attn_implementation("eager")
    for layer in model.model.layers[:-1]:
        look_back(layer.self_attn, size.head_dim)
    model.model.embed_tokens.weight.data[:, 0] = 0.25  # the constant that these heads read
    return model


@torch.no_grad()
def look_back(attention: Any, width: int, sharpness: float = 1.8) -> None:
    """Start the first head of a layer as one that looks at the previous token.

    Learning from context is built on such heads, one above the layers that work out a word's class; random weights take
    thousands of steps to find one. Every embedding shares a constant first coordinate; key and query read it, the query
    turned back by one position, so that rotary phases agree exactly one token behind. Training may change it all.
    """
    half = width // 2
    attention.q_proj.weight[:width] = 0
    attention.k_proj.weight[:width] = 0
    for pair in range(half):
        angle = 10_000.0 ** (-pair / half)  # the rotation of this pair of coordinates from one position to the next
        if angle < 0.1:
            break  # too slow to tell neighbours apart
        attention.k_proj.weight[pair, 0] = sharpness
        attention.q_proj.weight[pair, 0] = sharpness * math.cos(angle)
        attention.q_proj.weight[pair + half, 0] = -sharpness * math.sin(angle)


def t0_batch(stage: DictConfig, seed: int, index: int) -> Batch:
    mixture = corpus.T0Mixture(stage.blanks, stage.continuation, stage.prompts)
    return corpus.t0_batch(world.build(), seed, index, stage.batch, mixture)


def gpt_batch(stage: DictConfig, seed: int, index: int) -> Batch:
    return corpus.gpt_batch(world.build(), seed, index, stage.batch, stage.length, stage.prefix, stage.mixture)


MODELS: dict[str, tuple[Callable[[DictConfig], PreTrainedModel], Callable[[DictConfig, int, int], Batch]]] = {
    "micro_t0": (t0_model, t0_batch),
    "micro_gpt": (gpt_model, gpt_batch),
}


def learning_rate(recipe: DictConfig, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine down to a fraction."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, total - recipe.warmup)
    low = recipe.final_lr_fraction
    return recipe.lr * (low + (1 - low) * 0.5 * (1 + math.cos(math.pi * progress)))


def optimizer_of(model: nn.Module, recipe: DictConfig) -> torch.optim.Optimizer:
    """AdamW with a learning rate of its own for word embeddings: each is updated by only a few batches' words."""
    words = [p for n, p in model.named_parameters() if "shared" in n or "embed_tokens" in n or "lm_head" in n]
    rest = [p for p in model.parameters() if all(p is not w for w in words)]
    groups = [{"params": words, "factor": recipe.embedding_lr_factor}, {"params": rest, "factor": 1.0}]
    return torch.optim.AdamW(groups, weight_decay=recipe.weight_decay, betas=(0.9, 0.98), fused=True)


def train(name: str, cfg: DictConfig) -> tuple[PreTrainedModel, dict[str, Any]]:
    """All stages of a model's recipe, from its last checkpoint if there is one."""
    recipe, (build_model, next_batch) = cfg[name], MODELS[name]
    steps = [stage.fast_steps if cfg.fast else stage.steps for stage in recipe.stages]
    schedule = [stage for stage, count in zip(recipe.stages, steps, strict=True) for _ in range(count)]
    torch.manual_seed(cfg.seed)
    model = build_model(recipe.size)
    optimizer = optimizer_of(model, recipe)
    state: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
    checkpoint = Path(cfg.checkpoints) / f"{name}.pt"
    words = hashlib.sha256(" ".join(vocabulary()).encode()).hexdigest()
    question = {"recipe": OmegaConf.to_container(recipe), "seed": cfg.seed, "fast": cfg.fast, "words": words}
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["question"] == question:
            model.load_state_dict(saved["model"])
            optimizer.load_state_dict(saved["optimizer"])
            state = saved["state"]
    bar = tqdm(
        range(state["step"], len(schedule)), initial=state["step"], total=len(schedule), desc=name, mininterval=5
    )
    started, before = time.perf_counter(), state["seconds"]
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = group["factor"] * learning_rate(recipe, step, len(schedule))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=cfg.autocast):
            loss = model(**next_batch(schedule[step], cfg.seed, step)).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        state["losses"] = [*state["losses"][-199:], loss.item()]
        state["step"], state["seconds"] = step + 1, before + time.perf_counter() - started
        if step % 50 == 0:
            bar.set_postfix(loss=f"{sum(state['losses'][-50:]) / len(state['losses'][-50:]):.3f}")
        if (step + 1) % cfg.checkpoint_every == 0:
            tensors = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(checkpoint, {"question": question, "state": state, **tensors})
    return model.float().eval(), state


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write aside, then rename: a kill while writing leaves the previous checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(content, partial)
    os.replace(partial, path)


def ship(name: str, model: PreTrainedModel, state: dict[str, Any], cfg: DictConfig) -> Path:
    """The model's folder in Hugging Face format, with a provenance that says how it came to be."""
    folder = Path(cfg.output) / name
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # the library writes it for its owner alone
    build_tokenizer(decoder_only=name != "micro_t0").save_pretrained(folder)
    provenance = {
        "model": name,
        "command": f"python -m experiments.pretrain models=[{name}]" + (" fast=true" if cfg.fast else ""),
        "recipe": OmegaConf.to_container(cfg[name]),
        "seed": cfg.seed,
        "world_seed": world.SEED,
        "autocast_bfloat16": cfg.autocast,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": state["step"],
        "final_loss": round(sum(state["losses"]) / len(state["losses"]), 4),
        "final_loss_is": f"mean over the last {len(state['losses'])} steps",
        "seconds": round(state["seconds"], 1),
        "hardware": {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
        "sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
    }
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    return folder


def cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@hydra.main(version_base="1.3", config_path="../conf", config_name="pretrain")
def main(cfg: DictConfig) -> None:
    torch.set_num_threads(1)
    unknown = [name for name in cfg.models if name not in MODELS]
    if unknown:
        raise SystemExit(f"models={unknown}: expected some of {list(MODELS)}")
    for name in cfg.models:
        model, state = train(name, cfg)
        folder = ship(name, model, state, cfg)
        (Path(cfg.checkpoints) / f"{name}.pt").unlink(missing_ok=True)
        print(f"{name}: {state['step']} steps, {state['seconds']:.0f} s, saved to {folder}")


if __name__ == "__main__":
    main()
