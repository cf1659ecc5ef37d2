"""Every type of the installed Hugging Face PEFT, at sizes for tiny models: which run where, and why others do not."""

from importlib.util import find_spec

import torch
from peft import PeftType

from adaptbench.data.templates import Prompt
from adaptbench.methods.base import Adaptation
from adaptbench.methods.hf_peft import HuggingFacePeft
from adaptbench.models.backbone import Backbone
from adaptbench.scoring.evaluate import evaluate

TYPES = [kind.value for kind in PeftType]
MODELS = ("gpt2", "llama", "t5")
ARGUMENTS = {
    "ADAMSS": {"r": 8, "num_subspaces": 2},
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 2},
    "C3A": {"block_size": 4},
    "CARTRIDGE": {"num_virtual_tokens": 3},
    "FOURIERFT": {"n_frequency": 50},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 3, "num_tasks": 2},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "PSOFT": {"r": 4},
    "P_TUNING": {"num_virtual_tokens": 3},
    "ROAD": {"group_size": 8},
    "SHADOW": {"shadow_dropout": 0.0, "auxiliary_loss_weight": 0},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": list(range(3, 300))},
    "VBLORA": {"vector_length": 16, "num_vectors": 10},
    "WAVEFT": {"n_frequency": 50},
}
LINEAR_ONLY = {  # no counterpart for GPT-2's transposed weights
    *(
        "ADAMSS",
        "BOFT",
        "C3A",
        "DELORA",
        "GLORA",
        "HRA",
        "LOHA",
        "LOKR",
        "MISS",
        "OFT",
        "PEANUT",
        "POLY",
        "PSOFT",
        "ROAD",
    ),
    *("SHIRA", "SUPERTUNING"),
}
REFUSED = {
    **{(kind, "gpt2"): "Conv1D" for kind in LINEAR_ONLY},
    **{(kind, model): f"method.peft_type={kind!r}" for kind in ("ADALORA", "CPT", "LILY", "XLORA") for model in MODELS},
    ("BEFT", "gpt2"): "Please specify `target_modules`",
    ("OSF", "gpt2"): "trains nothing on gpt2",
    ("ADAPTION_PROMPT", "t5"): "Unsupported model type",
    ("MULTITASK_PROMPT_TUNING", "t5"): "leaves out what the decoder",
    ("SHADOW", "t5"): "Unable to automatically find",
}
if find_spec("sklearn") is None:
    REFUSED |= {("ADAMSS", model): "scikit-learn is required" for model in MODELS}
PROMPT_TYPES = ("CARTRIDGE", "MULTITASK_PROMPT_TUNING", "PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
RANDOM = ("POLY", "PVERA")  # they draw numbers while they train
CELLS = [(kind, model) for kind in TYPES for model in MODELS]
RUN = [cell for cell in CELLS if cell not in REFUSED]
SOME = [(kind, model) for kind, model in RUN if model == "llama" or kind in (*PROMPT_TYPES, "LORA", "LN_TUNING")]
PROMPTS = [
    Prompt(f"row{n}", "plain", f"the food was {' '.join([word] * n)}", ("no", "yes it is good", "maybe"), label)
    for n, word, label in (
        (1, "bad", 0),
        (4, "good", 1),
        (7, "bad", 0),
        (10, "good", 1),
        (13, "bad", 0),
        (1, "good", 1),
    )
]

_prepared: dict[tuple[str, str], Adaptation] = {}


def method(kind: str, **more: object) -> HuggingFacePeft:
    return HuggingFacePeft(name="peft", peft_type=kind, arguments={**ARGUMENTS.get(kind, {}), **more})


def prepared(kind: str, backbone: Backbone) -> Adaptation:
    """The tuner on the model, away from its start, where many tuners change nothing; made once."""
    if (kind, backbone.name) not in _prepared:
        _prepared[kind, backbone.name] = adaptation = method(kind).prepare(backbone, (1,))
        torch.manual_seed(3)
        with torch.no_grad():
            for parameter in adaptation.parameters:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return _prepared[kind, backbone.name]


def scores(adaptation: Adaptation, batch_size: int) -> torch.Tensor:
    """(N, C)"""
    (found,) = evaluate(adaptation, PROMPTS, batch_size)
    return torch.tensor([score.log_likelihoods for score in found])
