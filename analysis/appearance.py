"""How a method is called, ordered and drawn: the same in every table and figure, ours and the published ones.

A method nobody listed here works too: it is placed with the PEFT methods, named after itself, and gets a colour and a
marker that follow from its name.
"""

from dataclasses import dataclass
from zlib import crc32

INK = "#1f2430"  # text and axes; the report swaps it for its own text colour in dark mode
FAMILIES = ("peft", "full", "zero_shot", "icl")  # the order of the paper's Table 1


@dataclass(frozen=True)
class Look:
    label: str
    colour: str
    marker: str
    family: str = "peft"
    size: float = 1.0  # markers of equal nominal size do not look equally large


# Colours: Okabe and Ito's and Paul Tol's palettes, told apart with every common colour-vision deficiency; the marker
# says it a second time.
LOOKS = {
    "t_few": Look("T-Few", "#D55E00", "*", size=1.6),
    "ia3": Look("(IA)³", "#D55E00", "*", size=1.6),
    "lora": Look("LoRA", "#0072B2", "o"),
    "adapter": Look("Adapter", "#009E73", "s", size=0.9),
    "compacter": Look("Compacter", "#44AA99", "D", size=0.8),
    "compacter_pp": Look("Compacter++", "#44AA99", "d", size=1.1),
    "prefix": Look("Prefix tuning", "#E69F00", "P", size=1.1),
    "prompt": Look("Prompt tuning", "#56B4E9", "X", size=1.1),
    "bitfit": Look("BitFit", "#CC79A7", "^"),
    "bitfit_layernorm": Look("BitFit + LayerNorm", "#CC79A7", "^"),
    "layernorm": Look("LayerNorm", "#AA4466", "v"),
    "fish_mask": Look("FISH mask", "#999933", "h", size=1.1),
    "said": Look("Intrinsic SAID", "#7A6FC0", "p", size=1.1),
    "intrinsic_said": Look("Intrinsic SAID", "#7A6FC0", "p", size=1.1),
    "unipelt": Look("UniPELT", "#6699CC", "8"),
    "full_ft": Look("Full fine-tuning", INK, "D", "full", size=0.9),
    "zero_shot": Look("Zero-shot", "#7F8794", "o", "zero_shot"),
    "icl": Look("ICL", "#A0408F", ">", "icl", size=1.1),
    "icl_cached": Look("ICL, read once", "#A0408F", "v", "icl"),
    "icl_ensemble": Look("Ensemble ICL", "#A0408F", "<", "icl", size=1.1),
}
# Settings that only an ablation compares (analysis/ablations.py); the main tables leave them out.
ABLATION_ONLY = frozenset(
    [f"{method}_{losses}" for method in ("full_ft", "t_few") for losses in ("lm", "lm_ul", "lm_ln")] + ["ia3_lm"]
)
ORDER = tuple(LOOKS)
SPARE_COLOURS = ("#6699CC", "#997700", "#994455", "#228833", "#BB5566", "#004488")
SPARE_MARKERS = ("8", "p", "h", "H", "d", "v", "^", "<", ">")


def known(method: str) -> str | None:
    """The listed method this one is a variant of: itself or its longest beginning, "adapter_houlsby" -> "adapter"."""
    parts = method.split("_")
    beginnings = ("_".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((name for name in beginnings if name in LOOKS), None)


def look(method: str) -> Look:
    base = known(method)
    if base is None:
        code = crc32(method.encode())
        colour = SPARE_COLOURS[code % len(SPARE_COLOURS)]
        return Look(method.replace("_", " "), colour, SPARE_MARKERS[code // 7 % len(SPARE_MARKERS)])
    found = LOOKS[base]
    rest = method[len(base) :].strip("_").removeprefix("tuning").strip("_")  # "prompt_tuning_10" is "prompt" and "10"
    if not rest:
        return found
    marker = found.marker if rest[0].isdigit() else SPARE_MARKERS[crc32(rest.encode()) % len(SPARE_MARKERS)]
    name = rest.replace("pct", " %").replace("_", " ")
    name = name.capitalize() if rest.isalpha() else name
    return Look(f"{found.label} ({name})", found.colour, marker, found.family, found.size)


def place(method: str) -> tuple[int, str]:
    """Sort key within a family: as listed above, variants after their base, the unknown last."""
    base = known(method)
    return (len(ORDER) if base is None else ORDER.index(base), method)
