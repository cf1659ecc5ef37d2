"""Ablations: settings of their own tables, compared in pairs, told in a sentence that follows the data."""

import numpy as np
import pytest

from analysis import ablations, report
from analysis.collect import load
from analysis.summary import summarise
from tests.analysis.synthetic import record, write_run

ACCURACY = {
    "full_ft_lm": 0.55, "full_ft_lm_ul": 0.56, "full_ft_lm_ln": 0.80, "full_ft": 0.82, "ia3": 0.70, "t_few": 0.90,
}  # fmt: skip


@pytest.fixture
def experiment(tmp_path):
    rng = np.random.default_rng(0)
    for dataset in ("micro_copa", "micro_anli_r1"):
        hard = rng.random(80)  # the same items are hard for every method
        for method, accuracy in ACCURACY.items():
            for seed in range(3):
                correct = (hard + rng.normal(0, 0.02, 80) < accuracy).astype(float)
                content = record(f"{method}-{dataset}-{seed}", method=method, dataset=dataset, seed=seed)
                write_run(tmp_path, content, correct)
    return tmp_path


def test_settings_stand_in_their_own_tables_and_not_in_the_main_ones(experiment):
    summary = summarise(load(experiment))
    assert {arm.method for arm in summary.arms} == {"full_ft", "ia3", "t_few"}
    assert {arm.method for arm in summary.ablation_arms} == {"full_ft_lm", "full_ft_lm_ul", "full_ft_lm_ln"}
    assert [result.ablation.name for result in ablations.results(summary)] == ["table3", "table8", "table10"]


def test_differences_are_paired_and_the_verdict_says_which_hold(experiment):
    summary = summarise(load(experiment))
    table3, table8, _ = ablations.results(summary)
    length = table3.against_reference["L_LM + L_LN"]
    assert length.low > 0.15
    assert length.difference == pytest.approx(0.25, abs=0.04)
    told = ablations.verdict(table3)
    assert "“L_LM + L_LN” is 2" in told
    assert "points above" in told
    assert "“pre-trained”" in ablations.verdict(table8)


def test_published_rows_stand_below_ours_on_the_same_datasets(experiment):
    summary = summarise(load(experiment))
    table3 = ablations.table(ablations.results(summary)[0], summary)
    ours, theirs = table3.panels
    assert [name for _, name in table3.columns[1:3]] == ["anli_r1", "copa"]
    assert len(ours.rows) == len(theirs.rows) == 4
    assert theirs.rows[0][1:3] == ["47.8", "78.0"]
    assert theirs.rows[0][3] == "60.7"  # the mean of the eleven printed numbers


def test_the_report_has_a_section_for_what_ran(experiment):
    _, page = report.build(experiment)
    text = page.read_text()
    for name in ("table3", "table8", "table10"):
        assert f'id="{name}"' in text
        assert (experiment / "tables" / f"{name}.csv").exists()
