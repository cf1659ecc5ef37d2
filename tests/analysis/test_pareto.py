"""The Pareto front: who is on it, how surely, and where tables and figures show it."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from analysis import cost_figures, figures, markers, pareto, report, tables
from analysis import statistics as stats
from analysis.collect import load
from analysis.pareto import AXES, fronts, joint_bootstrap, undominated
from analysis.statistics import ItemStatistics
from analysis.summary import Arm, DatasetScores, summarise
from tests.analysis.synthetic import METHODS, record, write_experiment, write_run


def cell(values, seeds=None, uids=None, shots=32):
    """One dataset's scores from right and wrong answers (S, N)."""
    values = np.asarray(values, dtype=float)
    seeds = tuple(range(len(values))) if seeds is None else seeds
    index = pd.Index([f"item-{i}" for i in range(values.shape[1])] if uids is None else uids)
    scores = values.mean(axis=1)
    return DatasetScores(seeds, scores, ItemStatistics.of(values), index, np.full((1, len(seeds)), np.nan), 1, shots)


def arm(*cells, method="ia3"):
    by_dataset = {f"dataset {number}": scores for number, scores in enumerate(cells)}
    return Arm(method, "model", "", "peft", pd.DataFrame(), by_dataset, {}, {}, frozenset(by_dataset))


def answers(share, seeds=5, items=60, rng_seed=0):
    return (np.random.default_rng(rng_seed).random((seeds, items)) < share).astype(float)


@pytest.mark.parametrize(
    ("scores", "costs", "front"),
    [
        ([0.5, 0.6, 0.7], [1, 2, 3], [True, True, True]),
        ([0.7, 0.6, 0.5], [1, 2, 3], [True, False, False]),
        ([0.5, 0.5], [1, 2], [True, False]),  # as good for less
        ([0.5, 0.6], [1, 1], [False, True]),  # better for the same
        ([0.5, 0.5], [1, 1], [True, True]),  # neither is strictly anything
        ([0.5, 0.5, 0.6, 0.6], [1, 1, 2, 2], [True, True, True, True]),
        ([0.6, 0.5, 0.6], [2, 2, 1], [False, False, True]),
        ([0.5, 0.5 + 1e-15], [1, 1], [True, True]),  # rounding is no difference
        ([0.5, 0.5 + 1e-15], [1, 2], [True, False]),
        ([0.1], [7], [True]),
        ([0.4, 0.6], [0, -0.5], [False, True]),  # forgetting may be less than nothing
    ],
)
def test_who_is_undominated(scores, costs, front):
    assert undominated(scores, costs).tolist() == front
    order = np.random.default_rng(0).permutation(len(scores))
    again = undominated(np.array(scores)[order], np.array(costs)[order])
    assert again.tolist() == np.array(front)[order].tolist(), "whatever the order"


def test_many_replicates_at_once_are_as_one_by_one():
    rng = np.random.default_rng(1)
    scores, costs = rng.integers(0, 4, (6, 50)) / 4, rng.integers(0, 3, 6)
    found = undominated(scores, costs)
    for replicate in range(50):
        for i in range(6):
            beaten = any(
                scores[j, replicate] >= scores[i, replicate]
                and costs[j] <= costs[i]
                and (scores[j, replicate] > scores[i, replicate] or costs[j] < costs[i])
                for j in range(6)
            )
            assert found[i, replicate] == (not beaten)


@pytest.mark.parametrize("seeds", [1, 2, 3, 5])
def test_replicates_are_those_of_the_intervals(seeds):
    """Arms with the same runs: exactly `hierarchical_bootstrap`, so that figures and intervals tell one story."""
    arms = [
        arm(cell(answers(0.7, seeds)), cell(answers(0.5, seeds, 40, 1))),
        arm(cell(answers(0.6, seeds, 60, 2)), cell(answers(0.6, seeds, 40, 3))),
    ]
    found = joint_bootstrap(arms)
    for row, one in zip(found, arms, strict=True):
        expected = stats.hierarchical_bootstrap([scores.items for scores in one.by_dataset.values()])
        np.testing.assert_allclose(row, expected, atol=1e-12)


def test_a_single_zero_shot_run_stands_for_every_seed():
    same = answers(0.6, seeds=1)
    arms = [arm(cell(np.repeat(same, 5, axis=0))), arm(cell(same, seeds=(3,), shots=0))]
    found = joint_bootstrap(arms)
    np.testing.assert_array_equal(found[0], found[1])


def test_identical_arms_never_dominate_each_other():
    arms = [arm(cell(answers(0.6))) for _ in range(2)]
    found = joint_bootstrap(arms)
    assert undominated(found, [1.0, 1.0]).all()
    assert undominated(found, [1.0, 2.0]).mean(axis=1).tolist() == [1, 0]


def test_arms_share_their_draws():
    """One answer more right in every seed: never worse in any replicate, and equal where that item is not drawn."""
    worse = answers(0.5, items=20)
    worse[:, 7] = 0
    better = worse.copy()
    better[:, 7] = 1
    found = undominated(joint_bootstrap([arm(cell(better)), arm(cell(worse))]), [1.0, 1.0]).mean(axis=1)
    assert found[0] == 1
    assert found[1] == pytest.approx((1 - 1 / 20) ** 20, abs=0.02)


def test_the_order_of_items_does_not_matter():
    values, order = answers(0.6), np.random.default_rng(3).permutation(60)
    uids = [f"item-{i}" for i in range(60)]
    one, other = arm(cell(values)), arm(cell(values[:, order], uids=[uids[i] for i in order]))
    found = joint_bootstrap([one, other])
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)


def test_what_an_arm_lacks_drops_out_of_its_replicates():
    """A seed less changes nothing where all seeds are alike, nor does an item where all are right."""
    alike = np.repeat(answers(0.6, seeds=1), 5, axis=0)
    found = joint_bootstrap([arm(cell(alike)), arm(cell(alike[1:], seeds=(1, 2, 3, 4)))])
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
    found = joint_bootstrap([arm(cell(alike)), arm(cell(alike[:1], seeds=(9,)))])
    np.testing.assert_allclose(found[0], found[1], atol=1e-12)
    ones = np.ones((5, 60))
    found = joint_bootstrap([arm(cell(ones)), arm(cell(ones[:, :3]))])
    assert (found == 1).all(), "also where none of its three items is drawn"


def test_the_median_is_over_the_seeds_that_are_there():
    nan = np.nan
    found = pareto.median_of_present(np.array([[3, nan, 1, 2], [nan, 4, nan, 1], [nan] * 4, [nan, nan, nan, 5]]))
    np.testing.assert_array_equal(found, [2, 2.5, nan, 5])


def test_items_that_nobody_knows_leave_the_seeds():
    values = answers(0.6)
    known = cell(values)
    unknown = replace(known, uids=None, items=ItemStatistics.of(known.scores[:, None]))
    found = joint_bootstrap([arm(known), arm(unknown)])
    assert set(np.round(found[1], 12)) <= set(np.round(known.scores, 12))
    assert found[1].std() > 0


def test_the_probability_of_equals_is_a_half_for_the_dearer_one():
    """Two methods of the same true score: the cheap one is always on the front, the dear one about every other time."""
    rng, found = np.random.default_rng(5), []
    for experiment in range(150):
        difficulty = rng.normal(0, 0.2, (3, 1, 100))
        values = (rng.random((2, 3, 5, 100)) < np.clip(0.6 + difficulty, 0.05, 0.95)).astype(float)
        arms = [arm(*(cell(dataset) for dataset in one)) for one in values]
        replicates = joint_bootstrap(arms, replicates=300, rng_seed=experiment)
        found.append(undominated(replicates, [1.0, 2.0]).mean(axis=1))
    cheap, dear = np.array(found).T
    assert (cheap == 1).all()
    assert 0.42 < dear.mean() < 0.55  # a little below a half: a tie goes to the cheap one
    assert dear.std() > 0.15, "of a single experiment it says more than a half"


def test_fronts_are_those_of_the_records(summary):
    by_method = {one.method: one for one in summary.arms}
    found = fronts(summary)
    assert set(found) == set(AXES) - {"forgetting"}
    for name, members in found.items():
        if name in ("memory_adapt", "memory_predict"):
            continue  # the same for all of them
        costs = {method: AXES[name].cost(one) for method, one in by_method.items()}
        for member in members:
            mine, score = costs[member.arm.method], member.arm.score
            rivals = [m for m in by_method if costs[m] <= mine and by_method[m].score >= score]
            better = [m for m in rivals if costs[m] < mine or by_method[m].score > score]
            assert member.on_front == (not better), (name, member.arm.method)
            assert 0 <= member.probability <= 1
    (top,) = [member for member in found["memory_predict"] if member.on_front]
    assert top.arm.score == max(one.score for one in summary.arms), "all hold as much: one is on the front"
    assert fronts(summary) is found, "drawn once for all figures and the table"


def test_a_single_method_is_its_own_front(tmp_path):
    write_experiment(tmp_path, methods=("ia3",), datasets=("micro_wsc",), seeds=(0,))
    for members in fronts(summarise(load(tmp_path))).values():
        assert [(member.on_front, member.probability) for member in members] == [(True, 1.0)]


def test_only_methods_that_ran_everywhere_take_part(tmp_path):
    write_experiment(tmp_path, methods=("ia3", "lora"), datasets=("micro_wsc", "micro_cb"), seeds=(0, 1))
    write_run(tmp_path, record("best", method="bitfit", dataset="micro_wsc", **{"params.trainable": 1}), np.ones(64))
    summary = summarise(load(tmp_path))
    assert {member.arm.method for members in fronts(summary).values() for member in members} == {"ia3", "lora"}
    assert any("Left out" in note and "BitFit" in note for note in pareto.pareto(summary).notes)
    drawn = {point.label for point in figures.figure2(summary)[0].points}
    assert drawn == {"(IA)³", "LoRA"}, "means over different data sets do not compare"
    assert "Not drawn, as they did not run on every data set: BitFit." in report.reading_of(summary)["figure2"]


def test_without_a_method_that_ran_everywhere_there_is_no_front(tmp_path):
    write_run(tmp_path, record("a", dataset="micro_wsc"), np.ones(8))
    write_run(tmp_path, record("b", dataset="micro_cb", method="lora"), np.ones(8))
    summary = summarise(load(tmp_path))
    assert fronts(summary) == {}
    assert "pareto" not in tables.build_all(summary)
    report.build(tmp_path)
    assert "Pareto" not in (tmp_path / "report.html").read_text()


def test_the_table_holds_every_front_and_its_probabilities(summary):
    table = tables.build_all(summary)["pareto"]
    assert [panel.title for panel in table.panels] == [AXES[name].label for name in fronts(summary)]
    assert len(table.frame) == sum(map(len, fronts(summary).values()))
    for panel, (name, members) in zip(table.panels, fronts(summary).items(), strict=True):
        listed = [m for m in members if m.on_front or m.probability >= pareto.WORTH_NAMING]
        assert [row[0] for row in panel.rows] == [m.arm.name for m in listed]
        assert [row[4] for row in panel.rows] == ["yes" if m.on_front else "no" for m in listed]
        own = table.frame[table.frame.axis == name]
        assert own.probability.tolist() == [member.probability for member in members]


def test_a_probability_is_certain_only_if_every_replicate_says_so():
    texts = [pareto.probability_text(p) for p in (1, 0.9996, 0.994, 0.4, 0.006, 0.0002, 0)]
    assert texts == ["100 %", "> 99 %", "99 %", "40 %", "1 %", "< 1 %", "0 %"]


def test_figures_mark_the_front_and_no_other(summary):
    panels = {"flops_predict": figures.figure3, "parameters": figures.figure2}
    panels |= {"flops_adapt": cost_figures.training_flops, "storage": cost_figures.storage}
    for axis, panels_of in panels.items():
        panel = panels_of(summary)[0]
        front = {m.arm.style.label: m for m in fronts(summary)[axis] if m.on_front}
        marked = {point.style.label: point.front for point in panel.points if point.front}
        assert marked == {name: pareto.probability_text(m.probability) for name, m in front.items() if m.cost > 0}, axis
        free = [100 * m.arm.score for m in front.values() if m.cost == 0]
        assert panel.front_level == (pytest.approx(max(free)) if free else None)
        said = [line.label for line in panel.lines if "%" in line.label]
        assert bool(said) == bool(free), "a level that is on the front says how surely"


def test_all_of_the_front_is_drawn_however_many_methods_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "MAX_PEFT_METHODS", 2)
    monkeypatch.setattr(figures, "BEST_KNOWN", ("lora",))
    summary = summarise(load(write_experiment(tmp_path, datasets=("micro_wsc",))))
    drawn = {one.method for one in figures.best_known(summary, "storage")}
    on_front = {m.arm.method for m in fronts(summary)["storage"] if m.on_front}
    assert on_front <= drawn
    assert "lora" in drawn
    assert "prefix" not in drawn, "dominated and not among the best known"


def test_the_step_line_goes_through_the_front_and_never_down(summary):
    for panels_of in (figures.figure2, figures.figure3, cost_figures.storage, cost_figures.training_flops):
        figure, _ = figures.draw(panels_of(summary))
        panel, axes = panels_of(summary)[0], figure.axes[0]
        points = markers.dodge(axes, panel.points)
        x, y = markers.front_steps(axes, points, panel.front_level)
        assert (np.diff(x) >= 0).all()
        assert (np.diff(y) >= 0).all()
        assert {point.y for point in points if point.front} <= set(y)
        assert x[-1] == axes.get_xlim()[1]


def test_crowds_stay_inside_the_axes(summary):
    panel = figures.figure2(summary)[0]
    crowd = replace(panel, points=[replace(panel.points[0], x=1 + i / 1000) for i in range(80)])
    figure, _ = figures.draw([crowd])
    low, high = figure.axes[0].get_xlim()
    assert all(low < point.x < high for point in markers.dodge(figure.axes[0], crowd.points))


def test_markers_do_not_hide_each_other(summary):
    for panels_of in (*figures.FIGURES.values(), *cost_figures.PANELS.values()):
        figure, _ = figures.draw(panels_of(summary))
        for axes, panel in zip(figure.axes, panels_of(summary), strict=True):
            placed = [markers.mark(axes, point) for point in markers.dodge(axes, panel.points)]
            assert not any(a.hides(b) for i, a in enumerate(placed) for b in placed[i + 1 :])


def test_labels_do_not_overlap_in_cost_figures(summary):
    for panels_of in cost_figures.PANELS.values():
        for panel in figures.draw(panels_of(summary))[1]:
            for i, box in enumerate(panel):
                for other in panel[i + 1 :]:
                    width = min(box.x1, other.x1) - max(box.x0, other.x0)
                    height = min(box.y1, other.y1) - max(box.y0, other.y0)
                    assert min(width, height) <= 1, "two names cover each other"


def forgetful(folder, values):
    """Runs of some methods with what each has forgotten: a number, null, or no such field."""
    for method, value in values.items():
        level, share, *_ = METHODS[method]
        for seed in range(2):
            correct = (np.random.default_rng(seed).random(64) < level).astype(float)
            changes = {"method": method, "seed": seed, "params.trainable": round(1e6 * share)}
            changes |= {} if value == "absent" else {"forgetting.nats_per_token": value}
            write_run(folder, record(f"{method}-{seed}", **changes), correct)
    return summarise(load(folder))


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ({"ia3": 0.1, "lora": 0.3, "zero_shot": 0.0}, True),
        ({"ia3": -0.02, "lora": 0.3, "icl": None}, True),
        ({"ia3": 0.1, "lora": None}, False),
        ({"ia3": 0.1, "lora": "absent"}, False),
        ({"ia3": None, "lora": None}, False),
        ({"ia3": "absent", "lora": "absent"}, False),
    ],
)
def test_forgetting_is_drawn_where_two_methods_have_it(tmp_path, values, drawn):
    summary = forgetful(tmp_path, values)
    panels = cost_figures.forgetting(summary)
    assert (panels is not None) == drawn
    if panels is not None:
        known = {method: value for method, value in values.items() if value is not None}
        figure, _ = figures.draw(panels)
        low, high = figure.axes[0].get_xlim()
        assert sorted(point.x for point in panels[0].points) == sorted(known.values()), "zero and less, too"
        assert all(low < point.x < high for point in panels[0].points)
        assert any(point.front for point in panels[0].points)


@pytest.mark.parametrize("other", [-0.02, "absent"])
def test_the_report_shows_forgetting_where_it_is_known(tmp_path, other):
    forgetful(tmp_path, {"ia3": 0.1, "lora": other})
    report.build(tmp_path)
    known = other != "absent"
    assert (tmp_path / "figures" / "forgetting.png").exists() == known
    assert ('id="forgetting"' in (tmp_path / "report.html").read_text()) == known


def test_the_report_explains_the_front_in_two_sentences(summary):
    built = tables.build_all(summary)
    page = report.render(summary, built, dict.fromkeys(report.READING, ""))
    (said,) = re.findall(r"<p>(A ring and .*?)</p>", page, flags=re.DOTALL)
    assert len(re.findall(r"[.]\s", said + " ")) == 2
    assert 'id="pareto"' in page


def test_the_figure_of_forgetting_is_explained_in_two_sentences():
    for name in cost_figures.OPTIONAL:
        assert len(re.findall(r"[.] ", report.READING[name] + " ")) == 2
