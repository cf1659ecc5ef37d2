"""Tiny models of every architecture, as backbones and as transformers loads them; each is made when first asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from adaptbench.models.backbone import Backbone, load_backbone
from adaptbench.models.encoders import Encoder
from tests.conftest import WORDS, bpe_tokenizer
from tests.models.architectures import ENCODER_DECODERS, SETTINGS, config_of, save_tiny
from tests.models.bare import maker


@dataclass(frozen=True)
class Tiny:
    """One model twice, from the same files."""

    backbone: Backbone
    own: Any  # as transformers loads it, with attention written out


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tiny]:
    """tiny(name) for a name in `architectures.SETTINGS`."""

    @cache
    def make(name: str) -> Tiny:
        both_halves = name in ENCODER_DECODERS
        tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=both_halves)
        folder = save_tiny(config_of(name, len(tokenizer)), tokenizer, tmp_path_factory.mktemp(name))
        auto = AutoModelForSeq2SeqLM if both_halves else AutoModelForCausalLM
        # Falcon's eager attention adds ALiBi to a mask that has it already (transformers 5.23); its default does not.
        attention = "sdpa" if SETTINGS[name][0] == "falcon" else "eager"
        own = auto.from_pretrained(folder, attn_implementation=attention).eval().requires_grad_(False)
        return Tiny(load_backbone.__wrapped__(name, str(folder), device="cpu"), own)

    return make


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Encoder]:
    """bare(name): a tiny model without its head; a name in `architectures.SETTINGS`, bert or roberta."""
    return maker(lambda name: tmp_path_factory.mktemp(f"bare_{name}"))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
