"""How far the intervals and p-values of an experiment can be trusted, with as many seeds as it has."""

from analysis.summary import Summary

MEDIANS = {
    1: "Intervals of medians over one seed answer for the items alone: the draw is taken for granted.",
    2: "Intervals of medians over two seeds are too short where the draws differ strongly (a 95 % interval then covers "
    "the truth in 85 to 95 % of experiments).",
    3: "Intervals of medians over three seeds or more are conservative: a 95 % interval covers the truth in 96 to 100 "
    "% of experiments. Only on a single data set whose draws weigh more than its items is it too short.",
}
PAIRED = {
    1: "Paired comparisons with one seed answer for the items alone.",
    2: "Paired comparisons with two seeds are conservative: fewer than 5 % of equal methods differ at the 5 % level.",
    3: "Paired comparisons with three seeds or more hold their level: 3 to 6 % of equal methods differ at 5 %.",
}


def certainty(summary: Summary) -> list[str]:
    """A sentence for the medians and one for the comparisons of each number of seeds that occurs (three: or more)."""
    cells = [cell for arm in summary.arms for cell in arm.by_dataset.values() if cell.shots > 0]
    seeds = sorted({min(len(cell.seeds), 3) for cell in cells})
    return [kind[count] for kind in (MEDIANS, PAIRED) for count in seeds]
