"""A bill for a reader: lines of text; and for a program: flat keys."""

from dataclasses import asdict
from typing import Any

from adaptbench.costs.memory import Memory
from adaptbench.costs.quote import BreakEven, Flops, Quote

ITEMS = ("weights", "activations", "gradients", "optimizer", "kv_cache")


def table(bill: Quote, against: BreakEven | None) -> str:
    """The whole bill, a quantity a line."""
    lengths, spent = bill.lengths, bill.spent
    share = f" ({spent.trainable / bill.parameters:.4%})" if spent.trainable else ""
    lines = [f"{spent.method} on {spent.model}, {spent.shots} shots", ""]
    lines += [_line("parameters", f"{bill.parameters:,}"), _line("trainable", f"{spent.trainable:,}{share}")]
    if spent.steps:
        lines.append(_line("training", f"{spent.steps:,} steps of {spent.batch_size} examples"))
    tokens = f"input {lengths.input}" + (f" in {lengths.windows} windows" if lengths.windows > 1 else "")
    if lengths.choices:
        tokens += f", {lengths.choices} choices of {lengths.choice}, demonstration {lengths.demonstration}"
    lines.append(_line("tokens", f"{tokens} ({lengths.source})"))
    lines += ["", f"{'FLOPs':30s}{'counted':>12s}{'by the paper':>14s}"]
    lines += [_flops("to adapt", spent.adapt), _flops("per prediction", spent.predict)]
    if spent.once and spent.after:
        lines += [_flops("cached: reading once", spent.once), _flops("cached: per prediction", spent.after)]
    lines += ["", f"{'peak memory':20s}{'total':>12s}" + "".join(f"{name.replace('_', ' '):>12s}" for name in ITEMS)]
    lines.append(_memory("to adapt", bill.memory_adapt))
    lines.append(_memory("to predict", bill.memory_predict))
    if bill.memory_after:
        lines.append(_memory("cached: to predict", bill.memory_after))
    lines += ["", _line("to store", f"{size(bill.storage_bytes)} (by the paper {size(bill.storage_paper)})")]
    lines += _break_even(against) if against else []
    return "\n".join([*lines, *(f"note: {note}" for note in bill.notes)])


def as_json(bill: Quote, against: BreakEven | None) -> dict[str, Any]:
    """The keys of a run's record wherever they mean the same."""
    spent = bill.spent
    found: dict[str, Any] = {
        "method": spent.method,
        "model": spent.model,
        "shots": spent.shots,
        "lengths": {**asdict(bill.lengths), "prompt": bill.lengths.prompt},
        "steps": spent.steps,
        "batch_size": spent.batch_size,
        "params.total": bill.parameters,
        "params.trainable": spent.trainable,
        "flops.adapt.measured": spent.adapt.measured,
        "flops.adapt.paper": spent.adapt.paper,
        "flops.predict.measured": spent.predict.measured,
        "flops.predict.paper": spent.predict.paper,
        **_peak("memory.adapt", bill.memory_adapt),
        **_peak("memory.predict", bill.memory_predict),
        "memory.kv_cache_bytes": bill.kv_cache_bytes,
        "storage.bytes": bill.storage_bytes,
        "storage.paper": bill.storage_paper,
        "cached": None,
        "break_even": against.measured if against else None,
        "break_even.paper": against.paper if against else None,
        "break_even.cached": against.cached if against else None,
        "break_even.tuned": against.tuned if against else None,
        "break_even.prompted": against.prompted if against else None,
        "notes": bill.notes,
    }
    if spent.once and spent.after:
        found["cached"] = {
            "flops.once.measured": spent.once.measured,
            "flops.once.paper": spent.once.paper,
            "flops.predict.measured": spent.after.measured,
            "flops.predict.paper": spent.after.paper,
            **_peak("memory.predict", bill.memory_after),
        }
    return found


def size(value: float) -> str:
    """Bytes in decimal units, as the paper counts storage."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale:
            return f"{value / scale:.2f} {unit}"
    return f"{value:.0f} B"


def _peak(name: str, memory: Memory | None) -> dict[str, Any]:
    peak, items = (memory.peak, asdict(memory)) if memory else (None, None)
    return {f"{name}.peak_bytes": peak, f"{name}.items": items}


def _line(name: str, value: str) -> str:
    return f"{name:20s}{value}"


def _flops(name: str, flops: Flops) -> str:
    return f"  {name:28s}{_power(flops.measured):>12s}{_power(flops.paper):>14s}"


def _power(value: float) -> str:
    if not value:
        return "0"
    digits, exponent = f"{value:.3e}".split("e")
    return f"{digits}e{int(exponent)}"


def _memory(name: str, memory: Memory | None) -> str:
    if memory is None:
        return f"  {name:18s}{'none':>12s}"
    return f"  {name:18s}{size(memory.peak):>12s}" + "".join(f"{size(getattr(memory, item)):>12s}" for item in ITEMS)


def _break_even(against: BreakEven) -> list[str]:
    def after(predictions: int | None) -> str:
        return "never" if predictions is None else f"after {predictions:,} predictions"

    same = f"tuning costs what {against.same_cost_paper:.1f} prompted predictions do"
    lines = ["", f"break-even: {against.tuned} has cost less than {against.prompted}"]
    lines += [_line("  counted", after(against.measured)), _line("  by the paper", f"{after(against.paper)} ({same})")]
    if against.has_cache:
        lines.append(_line("  counted, cached", f"{after(against.cached)}, the demonstrations being read once"))
    return lines
