"""Tiny models that answer in many ways."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from adaptbench.models.backbone import Backbone, load_backbone
from adaptbench.models.encoders import Encoder
from tests.conftest import WORDS, bpe_tokenizer
from tests.models.architectures import ENCODER_DECODERS, SETTINGS, config_of, save_tiny
from tests.models.bare import maker
from tests.models.test_any_architecture import SCORED
from tests.tasks.answers import ENDS


@pytest.fixture(scope="session")
def lively(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Backbone, Path]]:
    """lively(name): a random model whose answers vary and end, because its head is its own and many tokens end one."""

    @cache
    def make(name: str) -> tuple[Backbone, Path]:
        both_halves = name in (*ENCODER_DECODERS, "pegasus")
        tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=both_halves)
        if name in SETTINGS:
            config = config_of(name, len(tokenizer), tie_word_embeddings=False)
        else:
            config = AutoConfig.for_model(name, vocab_size=len(tokenizer), **SCORED[name])
        folder = save_tiny(config, tokenizer, tmp_path_factory.mktemp(name))
        model = (AutoModelForSeq2SeqLM if both_halves else AutoModelForCausalLM).from_pretrained(folder)
        with torch.no_grad():  # a token should say less than all before it, or answers repeat it
            model.get_input_embeddings().weight.mul_(0.2)
        model.generation_config.eos_token_id = ENDS
        model.save_pretrained(folder)
        return load_backbone.__wrapped__(f"lively_{name}", str(folder), device="cpu"), folder

    return make


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Encoder]:
    """bare(name): a tiny model without its head; a name in `architectures.SETTINGS`, bert, roberta or DeBERTa's."""
    return maker(lambda name: tmp_path_factory.mktemp(f"bare_{name}"))
