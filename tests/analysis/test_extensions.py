"""The sentences beyond the paper's questions say what the records hold, and nothing where these are silent."""

import numpy as np
import pytest

from analysis import extensions, report
from analysis.collect import load
from analysis.summary import summarise
from tests.analysis.synthetic import record, write_experiment, write_run

SEEDS, ITEMS, TASKS = (0, 1, 2), 120, ("micro_rte", "micro_wic")


def write(folder, method, share, datasets=TASKS, **changes):
    """Runs of a method that answers this share of the items, the first ones, of every data set."""
    for dataset in datasets:
        for seed in SEEDS:
            correct = (np.arange(ITEMS) < share * ITEMS).astype(float)
            correct[seed] = 0.0  # draws differ
            own = {"method": method, "dataset": dataset, "seed": seed, **changes}
            write_run(folder, record(f"{method}-{dataset}-{seed}", **own), correct)


def told(folder):
    summary = summarise(load(folder))
    return summary, dict(extensions.sections(summary))


def test_without_anything_beyond_the_paper_there_are_no_sections(tmp_path):
    write_experiment(tmp_path, methods=("ia3", "lora", "icl"))
    _, sections = told(tmp_path)
    assert sections == {}
    report.build(tmp_path)
    assert "Beyond the paper" not in (tmp_path / "report.html").read_text()


def test_tuning_with_context_is_held_against_tuning_and_against_context(tmp_path):
    write(tmp_path, "ia3", 0.70)
    write(tmp_path, "icl_cached", 0.55)
    write(tmp_path, "icl_tuned", 0.90, datasets=TASKS[:1])
    (_, verdict) = told(tmp_path)[1]["Tuning on prompts that hold demonstrations"]
    assert "against (IA)" in verdict
    assert "+20.0 points" in verdict  # 0.90 - 0.70, on the data set that both have
    assert "+35.0 points" in verdict
    assert verdict.count("1 data set)") == 2
    assert verdict.count("more than chance explains") == 2


def test_a_rate_chosen_on_the_shots_is_held_against_the_fixed_one_and_billed(tmp_path):
    write(tmp_path, "ia3", 0.70, **{"flops.adapt.measured": 1e12})
    write(tmp_path, "ia3_prequential", 0.70, datasets=TASKS[1:], **{"flops.adapt.measured": 7e12})
    idea, verdict = told(tmp_path)[1]["Learning rates chosen on the shots"]
    assert "development set" in idea
    assert "+0.0 points" in verdict or "−0.0 points" in verdict
    assert "which these runs cannot tell from chance" in verdict
    assert "7.0 times the FLOPs" in verdict


def test_what_was_forgotten_is_told_from_most_to_least_with_the_worst_run(tmp_path):
    write(tmp_path, "ia3", 0.70, **{"forgetting.nats_per_token": 0.02})
    write(tmp_path, "full_ft", 0.70, datasets=TASKS[:1], **{"forgetting.nats_per_token": 0.4})
    write(tmp_path, "full_ft", 0.70, datasets=TASKS[1:], **{"forgetting.nats_per_token": 0.2})
    write(tmp_path, "icl_cached", 0.60, **{"forgetting.nats_per_token": 0.0})
    _, verdict = told(tmp_path)[1]["Forgetting"]
    assert "+0.300 (+0.400), (IA)" in verdict
    assert verdict.endswith("+0.020 (+0.020).")
    report.build(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "Beyond the paper" in page
    assert "+0.300 (+0.400)" in page


@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ((0.5, 0.5), "On micro_rte no method is above chance (50.0 %)."),
        ((0.9, 0.5), "On micro_rte not above chance (50.0 %): LoRA."),
        ((0.9, 0.8), "On micro_rte every method is above chance."),
    ],
)
def test_where_methods_are_at_chance_is_said(tmp_path, shares, expected):
    for method, share in zip(("ia3", "lora"), shares, strict=True):
        write(tmp_path, method, share, datasets=TASKS[:1])
    summary, _ = told(tmp_path)
    assert extensions.at_chance(summary) == [expected]
    report.build(tmp_path)
    assert expected in (tmp_path / "report.html").read_text()
