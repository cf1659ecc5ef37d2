"""Tiny models with random weights, real tokenizers, and the folder of real data if it is there."""

import copy
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from adaptbench.models.backbone import Backbone, load_backbone

torch.set_num_threads(1)

WORDS = (
    "yes no maybe true false the a cat dog sat on mat ran to house is it was question answer premise hypothesis "
    "given that we can say good bad red blue large small entailed correct"
)
ARCHITECTURES = ("t5", "llama", "gpt2", "opt")
DATA = Path(os.environ.get("ADAPTBENCH_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """What the programs keep between calls is not the user's own here; tests that run at the same time share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real few-shot data; tests that need it are skipped where it is absent."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA} (set ADAPTBENCH_DATA)")
    return DATA


def bpe_tokenizer(texts: list[str], *, end_of_sequence: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer trained on `texts`; T5's appends its end-of-sequence token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = ["<pad>", "</s>", "<s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    if end_of_sequence:
        tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>")


def tiny_model(architecture: str, vocabulary: int) -> torch.nn.Module:
    """A random model of two layers, grouped keys and values for Llama, biases where the architecture has them."""
    torch.manual_seed(0)
    if architecture == "t5":
        config = T5Config(
            vocab_size=vocabulary, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=4,
            feed_forward_proj="gated-gelu", tie_word_embeddings=False, dropout_rate=0.0,
            pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
        )  # fmt: skip
        return T5ForConditionalGeneration(config)
    if architecture == "llama":
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, pad_token_id=0,
        )  # fmt: skip
        return LlamaForCausalLM(config)
    if architecture == "gpt2":
        config = GPT2Config(
            vocab_size=vocabulary, n_embd=32, n_layer=2, n_head=4, n_positions=2048,
            attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, bos_token_id=2, eos_token_id=1,
        )  # fmt: skip
        return GPT2LMHeadModel(config)
    if architecture in ("bert", "roberta"):  # methods attach to them; the runner scores no choices with them
        make, model = (BertConfig, BertForMaskedLM) if architecture == "bert" else (RobertaConfig, RobertaForMaskedLM)
        config = make(
            vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, pad_token_id=0,
        )  # fmt: skip
        return model(config)
    config = OPTConfig(
        vocab_size=vocabulary, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=2048, word_embed_proj_dim=32, dropout=0.0, pad_token_id=0,
    )  # fmt: skip
    return OPTForCausalLM(config)


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder in Hugging Face format for every supported architecture."""
    folders = {}
    for architecture in ARCHITECTURES:
        folder = tmp_path_factory.mktemp(architecture)
        tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=architecture == "t5")
        tokenizer.save_pretrained(folder)
        tiny_model(architecture, len(tokenizer)).save_pretrained(folder)
        folders[architecture] = folder
    return folders


@pytest.fixture(scope="session")
def backbones(model_folders: dict[str, Path]) -> dict[str, Backbone]:
    """The tiny models as backbones; session-wide, because backbones never change."""
    loaded = {}
    for name, folder in model_folders.items():
        loaded[name] = load_backbone.__wrapped__(name, str(folder))
    return loaded


@pytest.fixture(scope="session")
def exact(backbones: dict[str, Backbone]) -> dict[str, Backbone]:
    """The same models in double precision, where two ways to compute one thing agree far below what matters."""
    return {
        name: replace(backbone, model=copy.deepcopy(backbone.model).double(), dtype=torch.float64)
        for name, backbone in backbones.items()
    }
