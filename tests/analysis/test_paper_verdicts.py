"""The verdicts on the first paper's claims say what the records hold, in whichever direction."""

import numpy as np

from analysis import paper_verdicts, report
from analysis.collect import load
from analysis.summary import summarise
from tests.analysis.synthetic import record, write_experiment, write_run

TASKS = ("micro_rte", "micro_wic", "micro_cb")
MORE = "Few-shot tuning scores higher than in-context learning"
CHEAPER = "A prediction costs less than with in-context learning"
METHODS = "(IA)³ scores higher than every other parameter-efficient method"
INGREDIENTS = "T-Few's losses and pre-training help"


def write(folder, method, share, datasets=TASKS, **changes):
    """Runs of a method that answers about this share of the items, others in each draw."""
    for dataset in datasets:
        for seed in range(3):
            correct = (np.random.default_rng(seed).permutation(200) < share * 200).astype(float)
            own = {"method": method, "dataset": dataset, "seed": seed, "chance": 0.5, **changes}
            write_run(folder, record(f"{method}-{dataset}-{seed}", **own), correct)


def told(folder):
    return dict(paper_verdicts.verdicts(summarise(load(folder))))


def test_a_claim_holds_where_every_difference_does(tmp_path):
    write(tmp_path, "ia3", 0.8)
    write(tmp_path, "icl", 0.6, **{"params.trainable": 0})
    write(tmp_path, "icl_cached", 0.6, TASKS[:1], **{"params.trainable": 0})
    (verdict,) = told(tmp_path)[MORE]
    assert verdict.startswith("Holds. (IA)³")
    assert "ICL (+20.0; " in verdict
    assert "ICL, cached (+20.0; " in verdict
    assert "1 data set" in verdict, "not all have run everywhere, and the verdict says so"


def test_it_does_not_hold_where_the_other_is_better(tmp_path):
    write(tmp_path, "ia3", 0.6)
    write(tmp_path, "icl", 0.8, **{"params.trainable": 0})
    assert told(tmp_path)[MORE][0].startswith("Does not hold. (IA)³, in points of paired runs, against ICL (−20.0; ")


def test_it_cannot_be_told_where_chance_explains_the_difference(tmp_path):
    write(tmp_path, "ia3", 0.70)
    write(tmp_path, "lora", 0.70)
    write(tmp_path, "prefix", 0.50)
    (verdict,) = told(tmp_path)[METHODS]
    assert verdict.startswith("Holds against 1 of 2. ")
    assert "not significant" in verdict.split("Prefix tuning")[0]
    write(tmp_path, "prefix", 0.70)
    assert told(tmp_path)[METHODS][0].startswith("These runs cannot tell. ")


def test_t_few_stands_for_tuning_where_it_ran_and_nothing_is_said_without_it(tmp_path):
    write(tmp_path, "t_few", 0.8)
    write(tmp_path, "ia3", 0.9)
    write(tmp_path, "icl", 0.6, **{"params.trainable": 0})
    assert told(tmp_path)[MORE][0].startswith("Holds. T-Few")
    write_experiment(other := tmp_path / "other", methods=("lora", "icl"), datasets=TASKS)
    assert told(other) == {}


def test_costs_are_compared_on_the_data_sets_that_both_have(tmp_path):
    bill = "flops.predict.measured"
    for dataset, each in zip(TASKS, (1e8, 2e8, 3e8), strict=True):
        write(tmp_path, "ia3", 0.8, (dataset,), **{bill: each, "flops.adapt.measured": 9e9})
    write(tmp_path, "icl", 0.6, TASKS[:1], **{bill: 1e9, "flops.adapt.measured": 0.0, "params.trainable": 0})
    (verdict,) = told(tmp_path)[CHEAPER]
    assert "ICL 10 times as many (paid back after 10 predictions; 1 data set)" in verdict  # 9e9 / (1e9 - 1e8)
    assert "(IA)³ takes 2.0×10⁸ FLOPs" in verdict


def test_what_was_not_asked_is_said(tmp_path):
    write(tmp_path, "ia3", 0.8)
    write(tmp_path, "icl", 0.6, **{"params.trainable": 0})
    assert told(tmp_path)[INGREDIENTS] == [paper_verdicts.NOT_ASKED]
    report.build(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "The paper&#39;s claims here" in page or "The paper's claims here" in page
    assert paper_verdicts.NOT_ASKED in page
