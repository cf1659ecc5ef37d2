"""Which architectures have known parts; where those are says a file for each family in `models/architectures/`.

Models without an entry are scored as they are (zero-shot, in-context learning) and trained as a whole; nothing attaches
to their parts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from adaptbench.errors import InputError
from adaptbench.models.architectures.bart import bart
from adaptbench.models.architectures.bert import bert, deberta
from adaptbench.models.architectures.falcon import bloom, falcon
from adaptbench.models.architectures.gpt import gpt2, gpt_neox, opt
from adaptbench.models.architectures.llama import llama
from adaptbench.models.architectures.parts import Parts
from adaptbench.models.architectures.t5 import t5
from adaptbench.models.disentangled import taken_over
from adaptbench.models.sites import (
    ROLES,
    Anatomy,
    AttentionSite,
    Columns,
    EmbeddingSite,
    LinearSite,
    NormSite,
    SublayerSite,
    weight_matrix,
)

__all__ = [
    "ENCODERS_ONLY",
    "ROLES",
    "Anatomy",
    "AttentionSite",
    "Columns",
    "EmbeddingSite",
    "LinearSite",
    "NormSite",
    "SublayerSite",
    "anatomy_of",
    "calls_attention_function",
    "packs_choices",
    "weight_matrix",
]


def _always(_config: Any) -> bool:
    return True


@dataclass(frozen=True)
class Architecture:
    """What is known of an architecture: its parts, and two properties of its code in transformers."""

    name: str
    parts: Callable[[nn.Module], Parts]
    packs: Callable[[Any], bool] = _always
    """Choices laid side by side under a mask, with positions of our own, equal each choice alone. Not where positions
    are counted off the row (BART), or biases off the mask (ALiBi)."""
    calls_attention_function: bool = True
    """Attention is a function that can be exchanged (`models/attention.py`): what prefixes need."""


def anatomy_of(model: nn.Module, named: str = "this model") -> Anatomy:
    """The anatomy of a supported architecture.

    Args:
        named: the model, for the message.

    Raises:
        InputError: an architecture without an entry here; says what runs on it all the same.
    """
    config: Any = model.config
    if not has_anatomy(config):
        raise InputError(
            f"{named}: the parts of a model of type {config.model_type!r} are not known here, so nothing attaches to "
            "them; zero_shot, icl, full_ft, fish_mask and hf_peft run on it, other methods on "
            + ", ".join(sorted(ARCHITECTURES))
        )
    architecture = ARCHITECTURES[config.model_type]
    parts = tuple(architecture.parts(model))
    return Anatomy(
        linears=tuple(part for part in parts if isinstance(part, LinearSite)),
        sublayers=tuple(part for part in parts if isinstance(part, SublayerSite)),
        attentions=tuple(part for part in parts if isinstance(part, AttentionSite)),
        norms=tuple(part for part in parts if isinstance(part, NormSite)),
        embeddings=tuple(part for part in parts if isinstance(part, EmbeddingSite)),
        takes_prefixes=architecture.calls_attention_function or taken_over(model),
        model_type=config.model_type,
    )


def has_anatomy(config: Any) -> bool:
    """The parts of this architecture are known."""
    return config.model_type in ARCHITECTURES


def packs_choices(config: Any) -> bool:
    """All choices of a prompt can share one pass; nobody has tried where the architecture is not known."""
    architecture = ARCHITECTURES.get(config.model_type)
    return architecture is not None and architecture.packs(config)


def calls_attention_function(config: Any) -> bool:
    """The model can be loaded with our attention function; an unknown one is left as the library has it."""
    architecture = ARCHITECTURES.get(config.model_type)
    return architecture is not None and architecture.calls_attention_function


def _never(_config: Any) -> bool:
    return False


ARCHITECTURES: dict[str, Architecture] = {  # by `model_type` in config.json
    "t5": Architecture("T5", t5),
    "mt5": Architecture("mT5", t5),
    "umt5": Architecture("UMT5", t5),
    "bart": Architecture("BART", bart, packs=_never),
    "mbart": Architecture("mBART", bart, packs=_never),
    "m2m_100": Architecture("M2M-100 and NLLB", bart, packs=_never),
    "marian": Architecture("Marian", bart, packs=_never),
    "llama": Architecture("Llama", llama),
    "mistral": Architecture("Mistral", llama),
    "mixtral": Architecture("Mixtral", llama),
    "qwen2": Architecture("Qwen2", llama),
    "qwen2_moe": Architecture("Qwen2-MoE", llama),
    "qwen3": Architecture("Qwen3", llama),
    "qwen3_moe": Architecture("Qwen3-MoE", llama),
    "phi3": Architecture("Phi-3", llama),
    "gemma2": Architecture("Gemma 2", llama),
    "gemma3_text": Architecture("Gemma 3 (text)", llama),
    "olmo2": Architecture("OLMo 2", llama),
    "smollm3": Architecture("SmolLM3", llama),
    "stablelm": Architecture("StableLM", llama),
    "granite": Architecture("Granite", llama),
    "gpt2": Architecture("GPT-2", gpt2),
    "gpt_neox": Architecture("GPT-NeoX and Pythia", gpt_neox),
    "opt": Architecture("OPT", opt),
    "bloom": Architecture("Bloom", bloom, packs=_never, calls_attention_function=False),
    "falcon": Architecture("Falcon", falcon, packs=lambda config: not config.alibi, calls_attention_function=False),
    "bert": Architecture("BERT", bert),
    "roberta": Architecture("RoBERTa", bert),
    "deberta-v2": Architecture("DeBERTa-v2 and v3", deberta, packs=_never, calls_attention_function=False),
}
ENCODERS_ONLY = ("bert", "roberta", "deberta-v2")  # no language model head that reads left to right
