"""Every method that trains a delta, at sizes for tiny models."""

from adaptbench.methods import METHODS
from adaptbench.methods.base import PeftMethod

SETTINGS = {
    "adapter": {"reduction": 2},
    "adapter_houlsby": {"placement": "houlsby", "reduction": 2},
    "adapter_pfeiffer": {"placement": "pfeiffer", "reduction": 2},
    "bitfit_tfew": {"targets": ["q", "k", "v", "o", "ff_in", "ff_gate"], "layer_norms": True},
    "compacter": {"reduction": 4},
    "compacter_pp": {"reduction": 4, "after": ["ff"]},
    "lora_tfew": {"layer_norms": True},
    "prefix_text": {"hidden": 16, "text": ["question", "answer"], "virtual_tokens": 3},
    "prompt": {"virtual_tokens": 3},
    "intrinsic_said": {"dimension": 300},
    "unipelt": {"reduction": 4, "rank": 2, "virtual_tokens": 3},
    "unipelt_pt": {"reduction": 4, "rank": 2, "virtual_tokens": 3, "prompt_tokens": 2},
}
KINDS = {
    kind
    for kind, method in METHODS.items()
    if issubclass(method, PeftMethod) and method.fuses and not method.whole_texts  # the latter: test_unipelt_paper.py
}
UNDER_A_HEAD = [kind for kind, method in METHODS.items() if method.whole_texts or method.heads_alone]
DELTAS_UNDER_A_HEAD = [kind for kind in UNDER_A_HEAD if not METHODS[kind].heads_alone]
ON_LANGUAGE_MODELS = [kind for kind in METHODS if kind not in UNDER_A_HEAD]
VARIANTS = {
    name: METHODS[next(kind for kind in sorted(KINDS, key=len, reverse=True) if name.startswith(kind))](
        name=name, **SETTINGS.get(name, {})
    )
    for name in sorted(KINDS | SETTINGS.keys())
}
NOT_THE_IDENTITY = ("prefix", "prefix_text", "prompt", "unipelt", "unipelt_pt")  # virtual tokens take attention


def method_on_encoders(variant: str) -> PeftMethod:
    """One of `VARIANTS` or `DELTAS_UNDER_A_HEAD`, at a size for tiny models."""
    return VARIANTS.get(variant) or METHODS[variant](name=variant, hidden=8)
