"""What an experiment says beyond the paper's questions: what was tried, and what these records make of it."""

from collections.abc import Callable

from analysis.pareto import FORGETTING, forgetting
from analysis.pretraining import ADAPTING
from analysis.summary import Arm, Comparison, Summary, adjusted
from analysis.typeset import percent, signed
from analysis.verdicts import significance

Section = tuple[str, list[str]]  # a title and its sentences

PREQUENTIAL = "_prequential"


def sections(summary: Summary) -> list[Section]:
    """Those that these records have something to say on."""
    found = [make(summary) for make in SECTIONS]
    return [(title, sentences) for title, sentences in found if sentences]


def at_chance(summary: Summary) -> list[str]:
    """Where the model is at chance: data sets on which the interval of some methods begins at or below it."""
    sentences, nowhere = [], []
    for dataset, level in summary.chance.items():
        arms = [arm for arm in summary.arms if dataset in arm.by_dataset]
        if not arms:
            continue
        guessing = [arm for arm in arms if arm.by_dataset[dataset].interval[0] <= level]
        if not guessing:
            nowhere.append(dataset)
        elif len(guessing) == len(arms):
            sentences.append(f"On {dataset} no method is above chance ({percent(level)} %).")
        else:
            names = ", ".join(summary.title(arm) for arm in guessing)
            sentences.append(f"On {dataset} not above chance ({percent(level)} %): {names}.")
    if nowhere:
        sentences.append(f"On {', '.join(nowhere)} every method is above chance.")
    return sentences


def tuned_in_context(summary: Summary) -> Section:
    """Does tuning plus context beat either?"""
    title = "Tuning on prompts that hold demonstrations"
    tuned = next((arm for arm in summary.arms if arm.method == "icl_tuned" and arm.by_dataset), None)
    if tuned is None:
        return title, []
    idea = (
        "In-context tuning trains on prompts that hold demonstrations, and predicts with demonstrations "
        "(after arXiv 2512.19879)."
    )
    pairs = [pair for pair in asked(summary) if pair.first is tuned]
    return title, [idea, against(summary, tuned, pairs)] if pairs else []


def chosen_on_shots(summary: Summary) -> Section:
    """Is a learning rate chosen on the shots as good as one that was chosen on development tasks?"""
    title = "Learning rates chosen on the shots"
    sentences = [
        against(summary, pair.first, [pair]) + more_training(pair.first, pair.second)
        for pair in asked(summary)
        if pair.first.method.endswith(PREQUENTIAL)
    ]
    idea = (
        "Prequential selection chooses a run's learning rate by the log-loss of shots predicted from the ones before, "
        "without a development set (after arXiv 2512.19879)."
    )
    return title, [idea, *sentences] if sentences else []


def forgotten(summary: Summary) -> Section:
    """What tuning costs elsewhere."""
    title = "Forgetting"
    measured = [(arm, value) for arm in summary.arms if (value := forgetting(arm)) is not None]
    tuned = sorted((pair for pair in measured if pair[0].family in ("peft", "full")), key=lambda pair: -pair[1])
    if not tuned:
        return title, []
    idea = (
        "Forgetting is the rise of the loss on text that has nothing to do with the task, in nats per token: "
        "a cost that in-context learning does not have."
    )
    told = ", ".join(f"{summary.title(arm)} {nats(value)}{worst(arm)}" for arm, value in tuned)
    return title, [idea, f"Mean over data sets of the median over seeds (in brackets the highest of all runs): {told}."]


SECTIONS: tuple[Callable[[Summary], Section], ...] = (tuned_in_context, chosen_on_shots, forgotten)


def asked(summary: Summary) -> list[Comparison]:
    """Every comparison of these sections, with p-values adjusted (Holm) over them alone."""
    found = []
    for arm in summary.arms:
        names: tuple[str, ...] = ("ia3", "icl_cached", "icl") if arm.method == "icl_tuned" else ()
        if arm.method.endswith(PREQUENTIAL):
            names = (arm.method.removesuffix(PREQUENTIAL),)
        rivals = (sibling(summary, arm, name) for name in names)
        pairs = (summary.compare(arm, rival) for rival in rivals if rival is not None)
        found += [pair for pair in pairs if pair is not None]
    return adjusted(found)


def sibling(summary: Summary, arm: Arm, method: str) -> Arm | None:
    """The arm of another method on the same model."""
    others = (other for other in summary.arms if (other.method, other.model, other.variant) == (method, arm.model, ""))
    return next((other for other in others if other.by_dataset), None)


def against(summary: Summary, arm: Arm, pairs: list[Comparison]) -> str:
    """An arm's paired differences, each on the data sets that both have."""
    told = "; ".join(
        f"against {summary.title(pair.second)} {signed(pair.difference)} points ({signed(pair.low)} to "
        f"{signed(pair.high)}; {data_sets(pair.datasets)}), {significance(pair)}"
        for pair in pairs
    )
    return f"{summary.title(arm)}: {told}."


def data_sets(count: int) -> str:
    return "1 data set" if count == 1 else f"{count} data sets"


def more_training(arm: Arm, fixed: Arm) -> str:
    """How many times the FLOPs of one training, on the data sets that both have."""
    shared = set(arm.by_dataset) & set(fixed.by_dataset)
    mine, once = (each.typical(ADAPTING, shared) for each in (arm, fixed))
    return f" Adapting takes {mine / once:.1f} times the FLOPs." if mine and once else ""


def worst(arm: Arm) -> str:
    return f" ({nats(float(arm.records[FORGETTING].max()))})"


def nats(value: float) -> str:
    return f"{value:+.3f}".replace("-", "−")
