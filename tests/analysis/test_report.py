"""From records to tables, figures and a page: right numbers, said plainly, the same every time."""

import json
import re
import shutil

import numpy as np
import pandas as pd
import pytest

from adaptbench.metrics import get
from analysis import archive, charts, cost_figures, figures, report, tables
from analysis.collect import ReportError, judged, load
from analysis.published import published_table4
from analysis.summary import summarise
from analysis.typeset import Best, latex
from analysis.verdicts import claims, headline, scaling
from tests.analysis.synthetic import METHODS, predictions, record, write_experiment, write_failure, write_run


@pytest.fixture(scope="module")
def built(folder, tmp_path_factory):
    """The made-up experiment with its tables, figures and page."""
    copy = tmp_path_factory.mktemp("built") / "x"
    shutil.copytree(folder, copy)
    report.build(copy)
    return copy


def cells(table, panel=0):
    return {row[0]: list(row) for row in table.panels[panel].rows}


def test_accuracy_is_the_mean_over_datasets_of_the_median_over_seeds(folder, summary):
    frame = load(folder).records
    expected = frame[frame.method == "ia3"].groupby("dataset").score.median().mean()
    row = cells(tables.table1(summary))["(IA)³"]
    assert float(row[7]) == pytest.approx(100 * expected, abs=0.05)
    low, high = map(float, re.findall(r"[\d.]+", row[8]))
    assert low < 100 * expected < high


def test_the_best_of_a_column_is_marked_and_methods_stand_in_the_papers_order(summary):
    rows = tables.table1(summary).panels[0].rows
    names = [row[0] for row in rows]
    assert names.index("(IA)³") < names.index("Full fine-tuning") < names.index("Zero-shot") < names.index("ICL")
    best = [row[0] for row in rows if isinstance(row[7], Best)]
    assert best == [max(rows, key=lambda row: float(row[7]))[0]]


def test_published_numbers_are_the_papers(summary):
    table4 = published_table4().set_index("method")
    assert table4.score["ia3"] == pytest.approx(64.6, abs=0.05)
    assert table4.score["full_ft"] == pytest.approx(63.3, abs=0.05)
    paper = cells(tables.table1(summary), panel=1)
    assert paper["T-Few"][1:8] == ["T0-11B", "n/a", "1.1e12", "n/a", "2.7e16", "4.2 MB", "72.4"]


def test_predictions_are_judged_under_every_normalisation():
    frame = predictions(np.array([1, 0, 1]))
    found = judged(frame, get("accuracy")).statistics
    assert found["token"].tolist() == [[1, 1], [0, 1], [1, 1]]
    summed = frame.groupby("uid", sort=False).apply(
        lambda g: g.loc[g.log_likelihood.idxmax(), "choice"] == g.label.iloc[0]
    )
    assert found["none"][:, 0].tolist() == summed.astype(float).tolist()


def test_every_pair_is_compared_and_adjusted(summary):
    pairs = summary.comparisons
    assert len(pairs) == len(METHODS) * (len(METHODS) - 1) / 2
    assert all(pair.p_holm >= pair.p for pair in pairs)
    by_name = {(pair.first.method, pair.second.method): pair for pair in pairs}
    assert by_name["ia3", "zero_shot"].significant
    assert by_name["ia3", "zero_shot"].difference == pytest.approx(0.22, abs=0.05)


def test_the_report_writes_everything_and_twice_the_same(folder, built, tmp_path, capsys):
    first, second = built, tmp_path / "two"
    shutil.copytree(folder, second)
    assert report.main([str(second)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "two/report.html")
    assert printed[0].startswith("Table 1")
    written = sorted(path.relative_to(first) for path in first.glob("[tf]*/*.*") if "failures/" not in str(path))
    suffixes = {path.suffix for path in written}
    assert suffixes == {".csv", ".md", ".tex", ".pdf", ".png"}
    for path in [*written, "report.html"]:
        assert (first / path).read_bytes() == (second / path).read_bytes(), path


def test_the_page_is_self_contained_and_speaks_from_the_numbers(built, summary):
    page = (built / "report.html").read_text()
    assert page.count("<svg") == len(figures.FIGURES) + len(cost_figures.PANELS) + len(cost_figures.CHARTS)
    assert not re.search(r'(src|href)="(?!#)', page.replace("xlink:href", "xlink")), "nothing is loaded from elsewhere"
    assert "&lt;fast&gt; one" in page, "text from records is escaped"
    assert page.count("<html") == page.count("</html>") == 1
    best = max((arm for arm in summary.arms if arm.family == "peft"), key=lambda arm: arm.score)
    assert f"{100 * best.score:.1f} %" in page


def test_headlines_follow_the_data(tmp_path):
    """With the methods' accuracies swapped the sentence must say the opposite."""
    flipped = {"ia3": METHODS["icl"][0], "icl": METHODS["ia3"][0]}
    for name, changes in (("as_is", {}), ("flipped", flipped)):
        original = dict(METHODS)
        METHODS.update({m: (level, *METHODS[m][1:]) for m, level in changes.items()})
        try:
            write_experiment(tmp_path / name, methods=("ia3", "icl"), items=200)
        finally:
            METHODS.update(original)
    said = {name: " ".join(headline(summarise(load(tmp_path / name)))) for name in ("as_is", "flipped")}
    assert "points below it" in said["as_is"]
    assert "points above it" in said["flipped"]


def test_claims_say_on_which_side_of_a_reference_each_method_lies(summary):
    against_prompts = claims(summary)["figure3"][0]
    assert re.search(r"Below it: .*ICL · micro_gpt_l \(−\d", against_prompts)
    against_full = claims(summary)["figure2"][0]
    (full,) = (arm for arm in summary.arms if arm.method == "full_ft")
    for arm in (arm for arm in summary.arms if arm.family == "peft"):
        pair = summary.compare(arm, full)
        side = ("Above it" if pair.difference > 0 else "Below it") if pair.significant else "No significant difference"
        assert against_full.count(summary.title(arm)) == 1
        assert against_full.index(side) < against_full.index(summary.title(arm))


def test_growth_with_size_is_told_from_the_records(tmp_path):
    for size, (share, parameters) in {"micro_gpt_s": (0.5, 1e5), "micro_gpt_l": (0.9, 1e6)}.items():
        for seed in range(3):
            correct = (np.arange(200) % 10 < 10 * share).astype(float)
            changes = {"method": "icl", "model": size, "params.trainable": 0, "params.total": parameters, "seed": seed}
            write_run(tmp_path, record(f"{size}-{seed}", **changes), correct)
    (sentence,) = scaling(summarise(load(tmp_path)))
    assert "50.0 % on micro_gpt_s, 90.0 % on micro_gpt_l" in sentence
    assert "+40.0 points" in sentence


def test_what_could_not_be_measured_is_said(tmp_path):
    write_run(tmp_path, record("a", **{"memory.adapt.peak_bytes": None}), np.ones(4))
    summary = summarise(load(tmp_path))
    assert any("memory.adapt.peak_bytes could not be measured in 1 of 1 runs" in note for note in summary.notes)
    assert cells(tables.machine(summary))["(IA)³"][2] == "n/a"


def test_failures_and_missing_seeds_are_counted(tmp_path):
    write_experiment(tmp_path, methods=("ia3", "prefix"), datasets=("micro_wsc", "micro_cb"), seeds=(0, 1))
    write_failure(tmp_path, "lost")
    write_failure(tmp_path, "prefix-micro_cb-0", dataset="micro_cb", seed=0)  # has a record since: not a failure
    summary = summarise(load(tmp_path))
    row = cells(tables.scores(summary))["Prefix tuning"]
    assert any("2/3 seeds, 1 failed" in cell for cell in row)
    assert [row[4] for row in tables.failures(summary).panels[0].rows] == ["OutOfMemoryError: 12 GB wanted"]


@pytest.mark.parametrize("methods", [("ia3",), ("icl",), ("zero_shot",), ("ia3", "unheard_of")])
def test_a_little_is_enough_to_report_on(tmp_path, methods):
    METHODS["unheard_of"] = METHODS["lora"]
    write_experiment(tmp_path, methods=methods, datasets=("mine",), seeds=(3,))
    del METHODS["unheard_of"]
    assert report.main([str(tmp_path)]) == 0


def test_answers_without_labels_are_billed_and_not_scored(tmp_path, capsys):
    write_run(tmp_path, record("a", score=None, dataset="raft_one"))
    write_run(tmp_path, record("b", score=None, dataset="raft_two"))
    assert report.main([str(tmp_path)]) == 0
    assert "experiments.submit" in capsys.readouterr().out
    frame = pd.read_csv(tmp_path / "tables" / "answered.csv")
    assert frame[["datasets", "runs", "answers"]].to_numpy().tolist() == [[2, 2, 8]]
    assert "have no labels" in (tmp_path / "report.html").read_text()


def test_answers_without_labels_stay_out_of_the_tables(tmp_path):
    write_experiment(tmp_path, methods=("ia3",), datasets=("micro_wsc",), seeds=(0,))
    write_run(tmp_path, record("b", score=None, dataset="raft_one"))
    summary, _ = report.build(tmp_path)
    assert summary is not None
    assert "raft_one" not in summary.datasets
    assert any("without labels (raft_one)" in note for note in summary.notes)


def test_records_of_an_older_version_are_left_out(tmp_path):
    write_experiment(tmp_path, methods=("ia3",), datasets=("micro_wsc",), seeds=(0,))
    write_run(tmp_path, record("old", schema=0, dataset="micro_old"))
    summary = summarise(load(tmp_path))
    assert summary.datasets == ["micro_wsc"]
    assert "1 records were made by an older version and are excluded." in summary.notes


def test_an_archive_reports_the_same_to_the_last_byte(tmp_path):
    made = write_experiment(tmp_path / "made", methods=("ia3", "icl"), datasets=("micro_wsc", "micro_cb"), seeds=(0, 1))
    write_failure(made, "lost")
    report.build(made)
    assert archive.main([str(made), str(tmp_path / "kept")]) == 0
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {
        "records.jsonl.gz", "failures.jsonl.gz", "outcomes.parquet",
    }  # fmt: skip
    report.build(tmp_path / "kept")
    assert (tmp_path / "kept" / "report.html").read_bytes() == (made / "report.html").read_bytes()
    first = (tmp_path / "kept" / "records.jsonl.gz").read_bytes()
    archive.pack(tmp_path / "kept", tmp_path / "again")
    assert (tmp_path / "again" / "records.jsonl.gz").read_bytes() == first


def test_a_broken_archive_is_one_line(tmp_path, capsys):
    (tmp_path / "records.jsonl.gz").write_bytes(b"no gzip")
    assert report.main([str(tmp_path)]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_merged_predictions_have_a_column(tmp_path):
    write_run(tmp_path, record("a", **{"flops.predict.merged": 1.5e8}), np.ones(4))
    write_run(tmp_path, record("b", method="prefix", **{"flops.predict.merged": None}), np.ones(4))
    rows = cells(tables.costs(summarise(load(tmp_path))))
    assert [row[8] for row in rows.values()] == ["1.5e8", "n/a"]


def test_labels_do_not_overlap(summary):
    for panels_of in figures.FIGURES.values():
        _, boxes = figures.draw(panels_of(summary))
        for panel in boxes:
            for i, box in enumerate(panel):
                for other in panel[i + 1 :]:
                    width = min(box.x1, other.x1) - max(box.x0, other.x0)
                    height = min(box.y1, other.y1) - max(box.y0, other.y0)
                    assert min(width, height) <= 1, "two names cover each other"


def test_tuned_lines_meet_prompted_ones_where_the_records_say(summary):
    lines = {tally.method: tally for tally in cost_figures.tallies(summary)}
    assert set(lines) == {"ia3", "full_ft", "zero_shot", "icl"}, "the best of each family, and every prompted one"
    _, _, mine, adapt = METHODS["ia3"]
    _, _, theirs, _ = METHODS["icl"]
    assert charts.crossing(lines["ia3"], lines["icl"]) == pytest.approx(adapt / (theirs - mine) / 1.025, rel=0.01)
    tuned, prompted, cached = cost_figures.published_tallies()
    assert charts.crossing(tuned, prompted) == pytest.approx(19.3, abs=0.1)
    assert charts.crossing(tuned, cached) == pytest.approx(775, abs=3)
    assert charts.crossing(prompted, prompted) is None


def test_a_breakdown_reads_what_runs_held_and_says_when_they_did_not(tmp_path, summary):
    arm = summary.arms[0]
    assert cost_figures.memory_items(arm) == {}
    held = {"weights": 5.0, "activations": 2.0, "gradients": 1.0, "optimizer": 1.0, "kv_cache": 0.0}
    write_run(tmp_path, record("a", **{"memory.adapt.items": held}), np.ones(4))
    assert cost_figures.memory_items(summarise(load(tmp_path)).arms[0]) == held


def test_every_figure_is_explained_in_two_sentences():
    for name in (*cost_figures.PANELS, *cost_figures.CHARTS):
        assert len(re.findall(r"[.] ", report.READING[name] + " ")) == 2, name


def test_latex_is_escaped_and_balanced(built):
    assert latex("a_b & 5 % #1.1e12") == r"a\_b \& 5 \% \#$1.1\times10^{12}$"
    for path in (built / "tables").glob("*.tex"):
        text = path.read_text()
        body = re.sub(r"\\[{}]", "", text)
        assert body.count("{") == body.count("}"), path
        assert text.count(r"\begin{") == text.count(r"\end{")
        assert not re.search(r"(?<!\\)[%#_&](?=\S)", re.sub(r"^%.*$| & ", "", text, flags=re.MULTILINE)), path


def test_csv_holds_the_numbers(built):
    frame = pd.read_csv(built / "tables/table1.csv")
    ours = frame[frame.source == "measured here"].set_index("method")
    assert ours.flops_inference_measured["icl"] > 10 * ours.flops_inference_measured["ia3"]
    assert (frame.source == "arXiv 2205.05638").sum() == 6


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "no such folder"),
        (lambda folder: folder.mkdir(), "no finished run"),
        (lambda folder: write_failure(folder, "x"), "1 failed"),
        (
            lambda folder: (write_run(folder, record("a")), (folder / "records/a.json").write_text("{")),
            "a.json: not readable",
        ),
        (lambda folder: write_run(folder, {"run_id": "a"}), "missing"),
        (lambda folder: write_run(folder, record("a", score=1.5)), "score is 1.5"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, make, says):
    folder = tmp_path / "outputs"
    make(folder)
    assert report.main([str(folder)]) == 2
    error = capsys.readouterr().err.strip()
    assert says in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("end", [100.00000000000004, 100 * (1 + 1e-9), 0.0])
def test_the_best_score_may_be_rounded(tmp_path, end):
    """sacrebleu's BLEU of perfect translations is 100.00000000000004."""
    write_run(tmp_path, record("a", metric="bleu", score=end, chance=None))
    assert load(tmp_path).records["score"].tolist() == [end]


@pytest.mark.parametrize(
    ("metric", "score"), [("bleu", 100.0001), ("bleu", -1e-8), ("matthews", -1.0001), ("bleu", float("nan"))]
)
def test_a_score_beyond_its_metrics_ends_is_refused(tmp_path, metric, score):
    write_run(tmp_path, record("a", metric=metric, score=score, chance=None))
    with pytest.raises(ReportError, match=r"score is .*, expected a number from -?\d+ to \d+"):
        load(tmp_path)


def test_a_stand_in_for_a_test_set_is_named_under_the_tables(tmp_path):
    folder = write_experiment(tmp_path)
    for path in (folder / "records").glob("*.json"):
        content = json.loads(path.read_text())
        split = "dev_r1 in place of test_r1" if content["dataset"] == "micro_cb" else "test"
        path.write_text(json.dumps({**content, "evaluation_split": split}))
    summary = summarise(load(folder))
    said = "micro_cb was evaluated on dev_r1 in place of test_r1, which was not available."
    assert summary.substituted_splits == [said]
    assert all(said in table.notes for table in (tables.table1(summary), tables.scores(summary)))


def test_a_setting_that_older_code_did_not_have_is_no_swept_one(tmp_path):
    """Records of two precisions, of which the older ones know nothing of settings that came later."""
    later = {"method": {"kind": "ia3", "name": "ia3", "budget": None}, "recipe": {"epochs": None, "patience": None}}
    for run, (dtype, config) in enumerate((("float32", {}), ("bfloat16", later))):
        known = {"norm": "token", "method": {"kind": "ia3", "name": "ia3"}, **config, "model": {"dtype": dtype}}
        write_run(tmp_path, record(f"run{run}", **{"provenance.config": known}), np.ones(8))
    assert {arm.variant for arm in summarise(load(tmp_path)).arms} == {"dtype=float32", "dtype=bfloat16"}
    for run, epochs in enumerate((3.0, 5.0)):
        known = {"norm": "token", **later, "recipe": {"epochs": epochs}, "model": {"dtype": "float32"}}
        write_run(tmp_path, record(f"more{run}", **{"provenance.config": known}), np.ones(8))
    found = {frozenset(arm.variant.split(", ")) for arm in summarise(load(tmp_path)).arms}
    settings = (("float32", "unset"), ("float32", "3.0"), ("float32", "5.0"), ("bfloat16", "null"))
    assert found == {frozenset((f"dtype={dtype}", f"epochs={epochs}")) for dtype, epochs in settings}
