"""A model's pre-training is part of what adapting takes, shared out over the data sets that start from it."""

from collections import defaultdict

import numpy as np
import pytest

from analysis import archive, cost_figures, extensions, figures, report, tables
from analysis.collect import load
from analysis.pretraining import ADAPTING, SECONDS, identity
from analysis.summary import summarise
from analysis.verdicts import headline
from tests.analysis.synthetic import bill, record, stage, write_experiment, write_run

OWN, EACH = 1e12, 2e8  # FLOPs to adapt and to predict
SHARED = "a run's share of the pre-training that its model started from"


def write(folder, method, dataset, last=None, model="minilm_l6", seeds=(0, 1), share=0.7, **changes):
    for seed in seeds:
        correct = (np.arange(60) < 60 * share).astype(float)
        correct[seed] = 1 - correct[seed]
        own = {"method": method, "model": model, "dataset": dataset, "seed": seed, "flops.adapt.measured": OWN}
        own |= {"flops.predict.measured": EACH, "seconds.adapt": 10.0}
        write_run(folder, record(f"{method}-{model}-{dataset}-{seed}", **{**own, **bill(last), **changes}), correct)


def adapting(folder, column=ADAPTING):
    """(method, dataset) -> what its runs, all alike, took."""
    found = load(folder).records.groupby(["method", "dataset"])[column].unique()
    return {key: value.item() for key, value in found.items()}


def test_without_pretraining_adapting_is_what_it_was(tmp_path):
    write(tmp_path, "lora", "domain_rct")
    records = load(write_experiment(tmp_path, methods=("ia3",), datasets=("micro_cb",), seeds=(0,))).records
    assert records[ADAPTING].tolist() == records["flops.adapt.measured"].tolist()
    assert records[SECONDS].tolist() == records["seconds.adapt"].tolist()


def test_a_stage_is_shared_by_data_sets_and_not_by_methods_or_seeds(tmp_path):
    """DAPT of three data sets; TAPT of one of them on top, of its own data set alone."""
    dapt = stage(9e12, sha256="d", corpus_sha256="c")
    for dataset in ("domain_rct", "domain_chemprot"):
        for method in ("full_ft", "lora"):
            write(tmp_path, method, dataset, dapt)
    write(tmp_path, "full_ft", "domain_imdb", stage(5e12, dapt, sha256="t", corpus_sha256="i"))
    write(tmp_path, "lora", "domain_imdb", seeds=(0, 1, 2))
    wanted = dict.fromkeys([(m, d) for m in ("full_ft", "lora") for d in ("domain_rct", "domain_chemprot")], OWN + 3e12)
    wanted |= {("full_ft", "domain_imdb"): OWN + 5e12 + 3e12, ("lora", "domain_imdb"): OWN}
    assert adapting(tmp_path) == wanted
    seconds = adapting(tmp_path, SECONDS)
    assert seconds["full_ft", "domain_imdb"] == 10 + 500 + 300
    assert seconds["lora", "domain_rct"] == 10 + 300


def test_hashes_tell_stages_apart_or_else_all_that_is_said_of_them():
    hashes = {"sha256": "a", "corpus_sha256": "b"}
    assert identity(stage(1.0, seconds=3, **hashes)) == identity(stage(1.0, seconds=4, **hashes))
    assert identity(stage(1.0, **hashes)) != identity(stage(1.0, **{**hashes, "sha256": "x"}))
    assert identity(stage(1.0, **hashes)) != identity(stage(1.0, **{**hashes, "corpus_sha256": "x"}))
    assert identity(stage(1.0)) == identity(stage(1.0))
    for other in (stage(2.0), stage(1.0, start="bert_base"), stage(1.0, stage(1.0)), stage(1.0, corpus=["others"])):
        assert identity(stage(1.0)) != identity(other)


def test_stages_of_different_starts_are_not_one(tmp_path):
    write(tmp_path, "full_ft", "domain_rct", stage(8e12))
    write(tmp_path, "full_ft", "domain_imdb", stage(8e12, start="bert_base"), model="bert_base_dapt")
    assert set(adapting(tmp_path).values()) == {OWN + 8e12}


def test_a_bill_that_does_not_say_whose_it_is_is_not_shared(tmp_path):
    for dataset in ("domain_rct", "domain_imdb"):
        write(tmp_path, "full_ft", dataset, **{"pretraining.flops": 4e12, "provenance.pretraining": None})
    assert set(adapting(tmp_path).values()) == {OWN + 4e12}


def test_what_was_not_counted_is_not_taken_for_nothing(tmp_path):
    write(tmp_path, "full_ft", "domain_rct", **{"provenance.pretraining": {**stage(1e12), "flops": None}})
    write(tmp_path, "lora", "domain_rct", stage(4e12), **{"flops.adapt.measured": None})
    summary = summarise(load(tmp_path))
    assert [arm.typical(ADAPTING) for arm in summary.arms] == [None, None]
    assert all(row[4] == "n/a" for row in tables.costs(summary).panels[0].rows)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Full fine-tuning after DAPT, which two data sets share, (IA)^3 without and prompting that pays as it predicts."""
    folder = tmp_path_factory.mktemp("pretrained")
    for dataset in ("micro_rte", "micro_wic"):
        write(folder, "ia3", dataset, share=0.6)
        write(folder, "lora", dataset, stage(8e12), model="minilm_l6_dapt", share=0.9)
        prompted = {"flops.adapt.measured": 0.0, "flops.predict.measured": 6 * EACH, "params.trainable": 0}
        write(folder, "icl", dataset, share=0.5, **prompted)
    return folder


WHOLE = OWN + 4e12


def test_every_table_of_costs_has_it(pretrained):
    built = tables.build_all(summarise(load(pretrained)))
    for name, column in (("table1", "flops_training_measured"), ("costs", "flops_adapt_measured")):
        frame = built[name].frame
        own = frame[frame.model.isin(["minilm_l6", "minilm_l6_dapt"])].set_index("method")[column]
        assert own.to_dict() == {"ia3": OWN, "lora": WHOLE, "icl": 0.0}, name
    costs = built["costs"]
    (row,) = (row for row in costs.panels[0].rows if row[0] == "LoRA")
    assert row[4:6] == ["5.0e12", "4.0e12"]
    assert costs.columns[5] == ("FLOPs to adapt", "of them pre-training")
    assert built["machine"].frame.set_index("method").seconds_adapt.to_dict() == {"ia3": 10, "lora": 410, "icl": 10}
    front = built["pareto"].frame.query("axis == 'flops_adapt'").set_index("method")
    assert front.cost.to_dict() == {"ia3": OWN, "lora": WHOLE, "icl": 0.0}
    assert all(any(SHARED in note for note in built[name].notes) for name in ("table1", "costs", "machine", "pareto"))


def test_every_figure_of_costs_has_it(pretrained):
    summary = summarise(load(pretrained))
    (place,) = (tally for tally in cost_figures.tallies(summary) if tally.method == "lora")
    assert place.once == WHOLE
    panel = cost_figures.training_flops(summary)[0]
    assert {point.style.label: point.x for point in panel.points} == {"(IA)³": OWN, "LoRA": WHOLE}
    assert "with a share of pre-training" in panel.x_label
    axes = cost_figures.breakdown(summary).axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["pre-training", "adapting", "predicting"]


def test_the_break_even_has_it(pretrained):
    """5e12 over a difference of 1e9 in each prediction."""
    said = " ".join(headline(summarise(load(pretrained))))
    assert "Adapting takes 5.0×10¹² FLOPs once (4.0×10¹² of them as its share of pre-training)" in said
    assert "paid back after 5,000 predictions" in said


def test_a_ratio_of_trainings_has_it(tmp_path):
    for method, last in (("ia3", None), ("ia3_prequential", stage(6e12))):
        write(tmp_path, method, "micro_rte", last)
    (_, (_, verdict)) = extensions.chosen_on_shots(summarise(load(tmp_path)))
    assert "7.0 times the FLOPs" in verdict


def test_without_pretraining_no_report_speaks_of_it(summary):
    built = tables.build_all(summary)
    assert not any(SHARED in note for table in built.values() for note in table.notes)
    assert not any("pre-training" in name for _, name in built["costs"].columns)
    assert "flops_adapt_pretraining" not in built["costs"].frame
    assert "pre-training" not in cost_figures.training_flops(summary)[0].x_label
    assert "pre-training" not in " ".join(headline(summary))


def test_an_archive_bills_the_same(pretrained, tmp_path):
    archive.pack(pretrained, tmp_path)
    assert adapting(tmp_path) == adapting(pretrained)


def test_answers_without_labels_are_billed_with_it(tmp_path):
    for dataset in ("raft_overruling", "raft_banking_77"):
        own = {"dataset": dataset, "score": None, "flops.adapt.measured": OWN, **bill(stage(8e12))}
        write_run(tmp_path, record(dataset, **own))
    table = tables.answered(load(tmp_path).unscored)
    assert table.panels[0].rows[0][6] == "5.0e12"
    assert any(SHARED in note for note in table.notes)


# -- the published numbers of arXiv 2205.05638 stand beside what compares with them -------------------------------


@pytest.mark.parametrize(
    ("dataset", "task", "compares"),
    [
        ("micro_rte", "choices", True),
        ("micro_rte", None, True),  # older records do not say, and all answered by choosing
        ("micro_dev_mood", "choices", True),
        ("anli_r1", "choices", True),
        ("open_copa", "choices", True),
        ("raft_overruling", "choices", True),
        ("sms_spam", "choices", False),
        ("glue_rte", "classification", False),
        ("rte", "classification", False),
        ("xquad_en", "spans", False),
    ],
)
def test_published_numbers_stand_only_beside_runs_of_their_kind(tmp_path, dataset, task, compares):
    for method in ("ia3", "icl"):
        write_run(tmp_path, record(method, method=method, dataset=dataset, task=task), np.arange(40) % 4 > 0)
    summary = summarise(load(tmp_path))
    table = tables.table1(summary)
    assert len(table.panels) == 1 + compares
    assert set(table.frame.source) == {"measured here", *["arXiv 2205.05638"] * compares}
    for panels_of in (figures.figure2, figures.figure3, cost_figures.training_flops, cost_figures.storage):
        assert len(panels_of(summary)) == 1 + compares
    assert len(cost_figures.break_even_chart(summary).axes) == 1 + compares


def test_a_page_without_the_papers_numbers_does_not_point_at_them(tmp_path):
    for method in ("ia3", "icl"):
        write_run(tmp_path, record(method, method=method, dataset="sms_spam"), np.arange(40) % 4 > 0)
    summary = summarise(load(tmp_path))
    page = report.render(summary, tables.build_all(summary), defaultdict(str))
    assert "right-hand panels" not in page
    assert "Published numbers" not in page
