"""Display names, sort order, colours and markers of methods: the same in every table and figure.

A method without an entry in `STYLES` is shown among the PEFT methods under its own name, with a colour and a marker
derived from that name.
"""

from dataclasses import dataclass
from zlib import crc32

FOREGROUND = "#1f2430"  # text and axes; the report replaces it with its own text colour in dark mode
FAMILIES = ("peft", "full", "zero_shot", "icl")  # the order of the paper's Table 1


@dataclass(frozen=True)
class MethodStyle:
    """How a method appears in tables and figures."""

    label: str
    colour: str
    marker: str
    family: str = "peft"
    size: float = 1.0  # relative marker size: at the same size some markers look smaller than others


# Colours from the palettes of Okabe and Ito and of Paul Tol, distinguishable with the common colour-vision
# deficiencies; the marker is a second cue.
STYLES = {
    "t_few": MethodStyle("T-Few", "#D55E00", "*", size=1.6),
    "ia3": MethodStyle("(IA)³", "#D55E00", "*", size=1.6),
    "lora": MethodStyle("LoRA", "#0072B2", "o"),
    "adapter": MethodStyle("Adapter", "#009E73", "s", size=0.9),
    "compacter": MethodStyle("Compacter", "#44AA99", "D", size=0.8),
    "compacter_pp": MethodStyle("Compacter++", "#44AA99", "d", size=1.1),
    "prefix": MethodStyle("Prefix tuning", "#E69F00", "P", size=1.1),
    "prompt": MethodStyle("Prompt tuning", "#56B4E9", "X", size=1.1),
    "bitfit": MethodStyle("BitFit", "#CC79A7", "^"),
    "bitfit_layernorm": MethodStyle("BitFit + LayerNorm", "#CC79A7", "^"),
    "layernorm": MethodStyle("LayerNorm", "#AA4466", "v"),
    "fish_mask": MethodStyle("FISH mask", "#999933", "h", size=1.1),
    "said": MethodStyle("Intrinsic SAID", "#7A6FC0", "p", size=1.1),
    "intrinsic_said": MethodStyle("Intrinsic SAID", "#7A6FC0", "p", size=1.1),
    "unipelt": MethodStyle("UniPELT", "#6699CC", "8"),
    "unipelt_paper": MethodStyle("UniPELT (as published)", "#332288", "8"),
    "unipelt_paper_pt": MethodStyle("PT + UniPELT", "#DDAA33", "P", size=1.1),
    "unipelt_ia3": MethodStyle("UniPELT with (IA)³", "#994455", "*", size=1.6),
    "unipelt_stack3": MethodStyle("UniPELT × 3", "#117733", "h", size=1.1),
    "linear_probe": MethodStyle("Linear probe", "#7F8794", "v"),
    "full_ft": MethodStyle("Full fine-tuning", FOREGROUND, "D", "full", size=0.9),
    "zero_shot": MethodStyle("Zero-shot", "#7F8794", "o", "zero_shot"),
    "icl": MethodStyle("ICL", "#A0408F", ">", "icl", size=1.1),
    "icl_cached": MethodStyle("ICL, cached", "#A0408F", "v", "icl"),
    "icl_tuned": MethodStyle("In-context tuning", "#B5651D", "H", size=1.1),
    "icl_calibrated": MethodStyle("ICL, calibrated", "#A0408F", "^", "icl"),
    "icl_calibrated_cached": MethodStyle("ICL, calibrated, cached", "#A0408F", "^", "icl"),
    "icl_channel": MethodStyle("ICL, noisy channel", "#A0408F", "d", "icl"),
    "icl_channel_cached": MethodStyle("ICL, noisy channel, cached", "#A0408F", "d", "icl"),
    "icl_knn": MethodStyle("ICL, nearest neighbours", "#A0408F", "h", "icl", size=1.1),
    "icl_ensemble": MethodStyle("Ensemble ICL", "#A0408F", "<", "icl", size=1.1),
}
# Encoders; what a model is called in every other report is its own name.
MODELS = {"minilm_l6": "MiniLM-L6", "roberta_base": "RoBERTa-base", "bert_base": "BERT-base"}
# How a model's name ends whose pre-training went on with a domain's texts, a task's own, or first those, then these.
CONTINUED = {"_dapt_tapt": "DAPT + TAPT", "_dapt": "DAPT", "_tapt": "TAPT"}
# Methods that only the ablations compare (analysis/ablations.py); the main tables leave them out.
ABLATION_ONLY = frozenset(
    [f"{method}_{losses}" for method in ("full_ft", "t_few") for losses in ("lm", "lm_ul", "lm_ln")] + ["ia3_lm"]
)
FALLBACK_COLOURS = ("#6699CC", "#997700", "#994455", "#228833", "#BB5566", "#004488")
FALLBACK_MARKERS = ("8", "p", "h", "H", "d", "v", "^", "<", ">")


def base_method(method: str) -> str | None:
    """The method in `STYLES` that a variant's name starts with ("adapter" for "adapter_houlsby"), or None."""
    parts = method.split("_")
    prefixes = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in prefixes if name in STYLES), None)


def method_style(method: str) -> MethodStyle:
    """The display name, colour and marker of a method; a variant keeps the colour of its base method."""
    base = base_method(method)
    if base is None:
        code = crc32(method.encode())
        colour = FALLBACK_COLOURS[code % len(FALLBACK_COLOURS)]
        marker = FALLBACK_MARKERS[code // 7 % len(FALLBACK_MARKERS)]
        return MethodStyle(method.replace("_", " "), colour, marker)
    style = STYLES[base]
    rest = method[len(base) :].strip("_").removeprefix("tuning").strip("_")  # "prompt_tuning_10" is "prompt" and "10"
    if not rest:
        return style
    marker = style.marker if rest[0].isdigit() else FALLBACK_MARKERS[crc32(rest.encode()) % len(FALLBACK_MARKERS)]
    suffix = rest.replace("pct", " %").replace("_", " ")
    suffix = suffix.capitalize() if rest.isalpha() else suffix
    return MethodStyle(f"{style.label} ({suffix})", style.colour, marker, style.family, style.size)


def model_label(model: str) -> str:
    """The display name of a model of `MODELS`, with what its pre-training went on with; any other model's own name."""
    suffix = next((suffix for suffix in CONTINUED if model.endswith(suffix)), "")
    base = model.removesuffix(suffix)
    return MODELS.get(base, base) + (f" + {CONTINUED[suffix]}" if suffix else "")


def sort_key(method: str) -> tuple[int, str]:
    """Sort key within a family: the order of `STYLES`, variants after their base method, unlisted methods last."""
    base = base_method(method)
    return (len(STYLES) if base is None else list(STYLES).index(base), method)
