"""What these records say to the claims of arXiv 2405.05493: paired differences and their intervals, model by model."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from adaptbench.metrics import get
from analysis.encoder_glue import PRINTED_AVERAGE
from analysis.encoders import DOMAIN_PART, GLUE_PART, LOW_RESOURCE_PARTS, SQUAD_PART, Block, Part, amount, blocks
from analysis.extensions import data_sets
from analysis.published import PT_UNIPELT, SECOND_HAND, SOURCES, mark, printed_in
from analysis.summary import Arm, Comparison, Summary, adjusted, compare_all
from analysis.typeset import count, signed, significant

MARGIN = 0.01  # of scores: two methods within one point of each other are on par
UNIPELT_METHOD, WITH_PROMPTS, FULL = "unipelt_paper", "unipelt_paper_pt", "full_ft"
GLUE_PARTS = (GLUE_PART, *LOW_RESOURCE_PARTS)


@dataclass(frozen=True)
class Case:
    """One claim about one pair: who is compared, the difference, and what was looked for."""

    claim: "Claim"
    block: Block  # of the first
    pair: Comparison


@dataclass(frozen=True)
class Claim:
    title: str
    pairs: Callable[[tuple[Block, ...]], Iterator[tuple[Block, Arm, Arm]]]
    answer: Callable[[Comparison], str]
    printed: Callable[[], str] | None = None  # what the paper's own difference is


def verdicts(summary: Summary) -> list[tuple[str, list[str]]]:
    """Claim -> a sentence for every model and part that has both sides; only claims with one.

    p-values are adjusted (Holm) over all of these comparisons together.
    """
    found = []
    for claim in CLAIMS:
        for block, first, second in claim.pairs(blocks(summary)):
            if (pair := difference(first, second)) is not None:
                found.append(Case(claim, block, pair))
    pairs = adjusted(case.pair for case in found)
    cases = [replace(case, pair=pair) for case, pair in zip(found, pairs, strict=True)]
    told = []
    for claim in CLAIMS:
        sentences = [sentence(case) for case in cases if case.claim is claim]
        if sentences and claim.printed is not None:
            sentences.append(claim.printed())
        if sentences:
            told.append((claim.title, sentences))
    return told


def difference(first: Arm, second: Arm) -> Comparison | None:
    """first - second on the data sets, seeds and items that both have; None if there are none."""
    shared = [name for name in first.by_dataset if name in second.by_dataset]
    pairs = compare_all([first, second], shared)
    if not pairs:
        return None
    return pairs[0] if pairs[0].first is first else pairs[0].reversed


def sentence(case: Case) -> str:
    pair = case.pair
    bounds = f"95 % interval {signed(pair.low)} to {signed(pair.high)}"
    setting = f", {pair.first.variant}" if pair.first.variant else ""
    scope = f"{data_sets(pair.datasets)}, {pair.runs} paired runs"
    found = f"{signed(pair.difference)} points{metric_of(pair)} ({bounds}; {scope})"
    return f"{case.block.title}{setting}: {found}: {case.claim.answer(pair)}."


def metric_of(pair: Comparison) -> str:
    """The metric of what was compared, where it is one."""
    shared = pair.second.by_dataset.keys() & pair.first.by_dataset.keys()
    names = set(pair.first.records.loc[pair.first.records["dataset"].isin(shared), "metric"])
    return f" of {get(str(names.pop())).label}" if len(names) == 1 else ""


# -- who is compared ----------------------------------------------------------------------------------------------


def within(first: str, second: str, parts: tuple[Part, ...]) -> Callable:
    """Two methods on the same model, part by part; of swept settings the same."""

    def pairs(found: tuple[Block, ...]) -> Iterator[tuple[Block, Arm, Arm]]:
        for block in found:
            for arm in block.arms if block.part in parts else ():
                other = block.arm(second, arm.variant)
                if arm.method == first and arm.by_dataset and other is not None:
                    yield block, arm, other

    return pairs


def against_pretraining(ending: str) -> Callable:
    """UniPELT on a model, full fine-tuning on the one whose pre-training went on, which its name says by its ending."""

    def pairs(found: tuple[Block, ...]) -> Iterator[tuple[Block, Arm, Arm]]:
        for block in found:
            for other in found:
                if other.part is block.part and other.model == block.model + ending:
                    first, second = block.arm(UNIPELT_METHOD), other.arm(FULL)
                    if first is not None and second is not None:
                        yield block, first, second

    return pairs


# -- what the difference means ------------------------------------------------------------------------------------


def helps(pair: Comparison) -> str:
    return direction(pair, "it helps, as claimed", "it hurts, against the claim", "helps")


def hurts(pair: Comparison) -> str:
    return direction(pair, "it helps, against the claim", "it hurts, as claimed", "hurts")


def direction(pair: Comparison, above: str, below: str, verb: str) -> str:
    if not pair.significant:
        return f"these runs cannot tell whether it {verb}"
    return above if pair.difference > 0 else below


def on_par(pair: Comparison) -> str:
    """Equivalence needs the whole interval within the margin; that no difference was found is not enough.

    An interval beyond the margin is one of many, so the difference has to be there after Holm's adjustment, too.
    """
    margin = f"{100 * MARGIN:.0f} point"
    if pair.low >= -MARGIN and pair.high <= MARGIN:
        said = f"on par within {margin}"
    elif pair.significant and pair.high < -MARGIN:
        said = f"not on par, UniPELT is more than {margin} below"
    elif pair.significant and pair.low > MARGIN:
        said = f"not on par, UniPELT is more than {margin} above"
    else:
        said = f"whether they are on par within {margin} cannot be told"
    return said + fewer_parameters(pair.first, pair.second)


def fewer_parameters(first: Arm, second: Arm) -> str:
    """How many parameters the first trains and stores, and how many that is of the second's, without their heads."""
    told = []
    for name, verb in (("trained", "trains"), ("stored", "stores")):
        mine, theirs = (amount(arm, f"params.{name}") for arm in (first, second))
        if mine is not None and theirs:
            not_fewer = ", not fewer" if mine >= theirs else ""
            told.append(f"{verb} {count(mine)} ({significant(100 * mine / theirs)} % of the other's{not_fewer})")
    return f"; of parameters, UniPELT {' and '.join(told)}" if told else ""


# -- what the paper prints ----------------------------------------------------------------------------------------


def printed_difference(place: str, first: str, second: str, dataset: str, metric: str) -> str:
    """The printed difference, with the mark of its numbers."""
    own, other = (
        printed_in(PT_UNIPELT, place, method=method, dataset=dataset, metric=metric).iloc[0]
        for method in (first, second)
    )
    second_hand = own["second_hand"] or other["second_hand"]
    points = signed((own["number"] - other["number"]) / 100, 2)
    what = f"{dataset} {metric}" if metric != "score" else dataset
    said = f"{SOURCES[PT_UNIPELT]} prints {points}{mark(second_hand)} ({what}, one number each, without a spread)."
    return f"{said} {SECOND_HAND}" if second_hand else said


def printed_on_glue() -> str:
    return printed_difference("glue", "pt_unipelt_adapterlib", "unipelt_adapterlib", PRINTED_AVERAGE, "score")


def printed_against_full() -> str:
    return printed_difference("glue", "unipelt_adapterlib", "full_finetuning", PRINTED_AVERAGE, "score")


def printed_on_squad() -> str:
    return printed_difference("squad", "pt_unipelt_paper", "unipelt_paper", "SQuAD1.1", "F1")


CLAIMS = (
    Claim(
        "Prompt tuning in front of UniPELT helps on GLUE",
        within(WITH_PROMPTS, UNIPELT_METHOD, GLUE_PARTS),
        helps,
        printed_on_glue,
    ),
    Claim(
        "Prompt tuning in front of UniPELT hurts on SQuAD",
        within(WITH_PROMPTS, UNIPELT_METHOD, (SQUAD_PART,)),
        hurts,
        printed_on_squad,
    ),
    Claim(
        "UniPELT is on par with full fine-tuning at fewer parameters",
        within(UNIPELT_METHOD, FULL, (*GLUE_PARTS, DOMAIN_PART, SQUAD_PART)),
        on_par,
        printed_against_full,
    ),
    *(
        Claim(f"UniPELT is on par with pre-training on {what} at fewer parameters", against_pretraining(ending), on_par)
        for ending, what in (
            ("_tapt", "the task (TAPT)"),
            ("_dapt", "the domain (DAPT)"),
            ("_dapt_tapt", "the domain, then the task (DAPT + TAPT)"),
        )
    ),
)
