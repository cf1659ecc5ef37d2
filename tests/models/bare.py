"""Tiny bare models from checkpoints with a language model head, and rows of texts for them."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, PreTrainedTokenizerFast

from adaptbench.data.texts import encode_text, pad_texts
from adaptbench.models.encoders import Encoder, load_encoder
from tests.conftest import WORDS, bpe_tokenizer, tiny_model
from tests.models.architectures import ENCODER_DECODERS, config_of, enliven, save_tiny

_DEBERTA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": -1,
    "pad_token_id": 0,
}
DEBERTA = {
    "deberta_v3": {  # buckets fewer than tokens, so that the ends are cut off
        **_DEBERTA,
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "type_vocab_size": 0,
    },
    "deberta_v2": {**_DEBERTA, "share_att_key": False, "type_vocab_size": 2, "position_biased_input": True},
}
WITH_DECODER_KEPT = ("bart", "mbart", "m2m_100", "marian")
PAIRS = [
    ("the cat sat on the mat", "a dog ran"),
    ("it was a good answer", None),
    ("given that the large red house is blue we can say", "yes no maybe true false"),
    ("no", "the small mat was red"),
    ("a dog", None),
    ("the large blue cat ran to the house", "it is true"),
]
MARKS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def bert_tokenizer() -> PreTrainedTokenizerFast:
    """As BERT's: whole words, word ends and letters; a pair is [CLS] a [SEP] b [SEP], of types 0 and 1."""
    words = sorted(set(WORDS.split()))
    letters = [chr(code) for code in range(33, 127)]
    entries = [*MARKS, *words[::2], *(f"##{word[2:]}" for word in words if len(word) > 3), *letters]
    entries += [f"##{letter}" for letter in letters]
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **dict(zip(names, MARKS, strict=True)))


def roberta_tokenizer() -> PreTrainedTokenizerFast:
    """As RoBERTa's: byte-level BPE; a pair is <s> a </s></s> b </s>, all of one type."""
    tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=False)
    inner = tokenizer.backend_tokenizer
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 2), add_prefix_space=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="</s>", bos_token="<s>", cls_token="<s>", sep_token="</s>"
    )


def save_bare(name: str, folder: Path, **changes: Any) -> Path:
    """A checkpoint with a language model head and its tokenizer."""
    if name in ("bert", "roberta", *DEBERTA):
        tokenizer = roberta_tokenizer() if name == "roberta" else bert_tokenizer()
        if name in DEBERTA:
            config = AutoConfig.for_model("deberta-v2", vocab_size=len(tokenizer), **DEBERTA[name])
        else:
            config = tiny_model(name, len(tokenizer)).config
        config.update({"max_position_embeddings": 128, **changes})
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(config)
        enliven(model)
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder
    tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=name in ENCODER_DECODERS)
    return save_tiny(config_of(name, len(tokenizer), **changes), tokenizer, folder)


def maker(folders: Callable[[str], Path]) -> Callable[[str], Encoder]:
    """make(name): the bare model of that name, loaded once."""

    @cache
    def make(name: str) -> Encoder:
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32)  # whatever the test that asks first computes in
        try:
            folder = save_bare(name, folders(name))
            return load_encoder.__wrapped__(name, str(folder), device="cpu")
        finally:
            torch.set_default_dtype(default)

    return make


def rows_of(encoder: Encoder, count: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    """(N, S) ids, mask and types of texts and pairs of unequal length."""
    return pad_texts([encode_text(encoder, *pair) for pair in PAIRS[:count]], encoder.pad_id)


def doubled(encoder: Encoder) -> Encoder:
    """The same model in double precision."""
    return replace(encoder, model=copy.deepcopy(encoder.model).double(), dtype=torch.float64)
