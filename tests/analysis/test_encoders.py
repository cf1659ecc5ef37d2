"""Encoders with a trained head: what is told of them is in the records, and second-hand numbers are marked."""

import json
import re
from collections import defaultdict
from dataclasses import replace
from zlib import crc32

import numpy as np
import pandas as pd
import pytest

from adaptbench.metrics import get
from analysis import archive, cost_figures, encoder_figures, encoder_tables, figures, published, report, tables
from analysis.appearance import method_style, model_label
from analysis.collect import load
from analysis.encoder_cells import SPREAD
from analysis.encoder_parameters import prefix_network
from analysis.encoder_verdicts import on_par, verdicts
from analysis.encoders import blocks
from analysis.pretraining import ADAPTING
from analysis.published import MARK, SECOND_HAND
from analysis.summary import Comparison, summarise
from analysis.typeset import latex, to_markdown
from tests.analysis.synthetic import bill, record, stage, write_experiment, write_failure

SEEDS, ITEMS = (0, 1, 2), 120
ROBERTA_BASE = 124_055_040  # without the pooler's 768 * 768 + 768
PARAMETERS = {  # method -> trained, stored, served
    "unipelt_paper": (11_083_376, 1_410_672, 1_410_672),
    "unipelt_paper_pt": (11_091_056, 1_418_352, 1_418_352),
    "full_ft": (ROBERTA_BASE, ROBERTA_BASE, 0),
    "lora": (294_912, 294_912, 0),
    "linear_probe": (0, 0, 0),
}
DRAWN = ("glue_low_resource", "domains_flops")
LEVELS = {"unipelt_paper": 0.80, "unipelt_paper_pt": 0.90, "full_ft": 0.85, "lora": 0.75, "linear_probe": 0.60}


def answered_right(share, draw, seed):
    """(ITEMS,): this share of the items, a point less for every further seed; which ones follows from the draw."""
    order = np.random.default_rng([crc32(draw.encode()), seed]).permutation(ITEMS)
    return order < round((share - 0.01 * seed) * ITEMS)


def write_labels(folder, run, share, metric="accuracy", classes=3, draw="", **changes):
    reference = np.arange(ITEMS) % classes
    right = answered_right(share, draw or changes["method"], changes["seed"])
    prediction = np.where(right, reference, np.where(reference == 0, 1, 0))  # so both kinds of F1 differ
    table = {"uid": [f"item-{i}" for i in range(ITEMS)], "template": "plain", "classes": classes}
    frame = pd.DataFrame({**table, "prediction": prediction, "reference": reference})
    names = ("accuracy", "f1_micro", "f1_macro", "matthews")
    scores = {name: get(name).score(prediction, reference, classes) for name in names}
    write(folder, run, frame, scores, metric, **changes)


def write_answers(folder, run, share, metric="token_f1", draw="", **changes):
    """Of what is not answered exactly, every other one has a word right: half of F1, as a word of three."""
    right = answered_right(share, draw or changes["method"], changes["seed"])
    prediction = ["big red house" if good else "house" if i % 2 else "tree" for i, good in enumerate(right)]
    references = [["big red house"] for _ in range(ITEMS)]
    table = {"uid": [f"item-{i}" for i in range(ITEMS)], "template": "plain", "classes": 0}
    frame = pd.DataFrame({**table, "prediction": prediction, "reference": references})
    scores = {name: get(name).score(prediction, references) for name in ("exact_match", "token_f1")}
    write(folder, run, frame, scores, metric, **changes)


def write(folder, run, frame, scores, metric, **changes):
    for name in ("records", "predictions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    method = changes.get("method", "unipelt_paper")
    trained, stored, served = PARAMETERS.get(method, (1, 1, 1))
    counts = {"trained": trained, "stored": stored, "served": served, "head": 592_130, "total": ROBERTA_BASE}
    content = record(run, model="roberta_base", **{f"params.{name}": number for name, number in counts.items()})
    content |= {f"scores.{name}": value for name, value in scores.items()}
    content |= {"metric": metric, "score": scores[metric], "n_eval": len(frame)} | changes
    frame.to_parquet(folder / "predictions" / f"{run}.parquet")
    (folder / "records" / f"{run}.json").write_text(json.dumps(content))


def write_block(folder, datasets, levels=LEVELS, writer=write_labels, seeds=SEEDS, shots=3000, **changes):
    model = changes.get("model", "roberta_base")
    for method, share in levels.items():
        for dataset in datasets:
            for seed in seeds:
                run = f"{method}-{model}-{dataset}-{shots}-{seed}"
                writer(folder, run, share, method=method, dataset=dataset, seed=seed, shots=shots, **changes)
    return folder


def tables_of(folder):
    summary = summarise(load(folder))
    return summary, {table.name: table for make in encoder_tables.TABLES if (table := make(summary)) is not None}


def rows_of(table, panel):
    (found,) = (p for p in table.panels if p.title.startswith(panel))
    return [list(row) for row in found.rows]


def row_of(table, panel, name):
    return next(row for row in rows_of(table, panel) if row[0] == name)


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    """Three GLUE data sets, whole and at two K, two domains with TAPT, and XQuAD."""
    folder = tmp_path_factory.mktemp("encoders")
    write_block(folder, ("glue_cola", "glue_mrpc", "glue_rte"))
    for shots, less in ((100, 0.3), (500, 0.1)):
        lower = {method: share - less for method, share in LEVELS.items()}
        write_block(folder, ("glue_mrpc", "glue_rte"), lower, shots=shots)
    write_block(folder, ("domain_chemprot",), metric="f1_micro")
    write_block(folder, ("domain_citation_intent",), metric="f1_macro")
    for dataset, metric in (("domain_chemprot", "f1_micro"), ("domain_citation_intent", "f1_macro")):
        tapt = bill(stage(9e15, corpus=[dataset]))
        write_block(folder, (dataset,), {"full_ft": 0.82}, metric=metric, model="roberta_base_tapt", **tapt)
    write_block(folder, ("xquad_en",), writer=write_answers)
    with pytest.MonkeyPatch.context() as patch:  # drawing takes most of the time: two figures stand for all
        for module, name in ((figures, "FIGURES"), (cost_figures, "PANELS"), (cost_figures, "CHARTS")):
            patch.setattr(module, name, {})
        patch.setattr(encoder_figures, "drawings", lambda summary: {n: encoder_figures.draw(summary, n) for n in DRAWN})
        report.build(folder)
    return folder


@pytest.fixture(scope="module")
def found(everything):
    """Its summary and its tables."""
    return tables_of(everything)


# -- tables -------------------------------------------------------------------------------------------------------


def test_glue_holds_mean_and_standard_deviation_over_seeds(found):
    summary, tables = found
    frame = summary.experiment.records.query("method == 'lora' and shots == 3000")
    row = row_of(tables["glue"], "Measured here", "LoRA")
    wanted = ("glue_cola", None, "glue_mrpc", None, None, None, None, "glue_rte")
    means = {name: frame[frame.dataset == name].score for name in wanted if name}
    assert row[2:-1] == [f"{100 * means[n].mean():.1f} ({100 * means[n].std():.1f})" if n else "n/a" for n in wanted]
    by_seed = frame[frame.dataset.isin(means)].groupby("seed").score.mean()
    assert row[-1] == f"{100 * by_seed.mean():.1f} ({100 * by_seed.std():.1f})"
    assert [name for _, name in tables["glue"].columns[2:5]] == ["accuracy", "", "accuracy"]
    csv = tables["glue"].frame.query("method == 'lora' and source == 'measured here' and dataset == 'average'")
    assert csv["mean"].item() == pytest.approx(by_seed.mean())
    assert csv.ci_low.item() < by_seed.mean() < csv.ci_high.item()


def test_every_row_has_its_intervals_beneath(found):
    _, tables = found
    rows = rows_of(tables["glue"], "Measured here")
    assert len(rows) == 2 * len(LEVELS)
    for scores, intervals in zip(rows[::2], rows[1::2], strict=True):
        assert intervals[:2] == ["", "95 % interval"]
        for score, bounds in zip(scores[2:], intervals[2:], strict=True):
            assert bool(bounds) == (score != "n/a")
            if bounds:
                low, high = map(float, bounds.strip("[]").split(", "))
                assert low <= float(score.split()[0]) <= high
    assert SPREAD in tables["glue"].notes


def test_a_missing_data_set_or_seed_leaves_an_average_out(tmp_path):
    write_block(tmp_path, ("glue_cola", "glue_rte"), {"lora": 0.7, "full_ft": 0.8})
    write_block(tmp_path, ("glue_cola",), {"unipelt_paper": 0.8})
    write_block(tmp_path, ("glue_cola",), {"linear_probe": 0.6})
    write_block(tmp_path, ("glue_rte",), {"linear_probe": 0.6}, seeds=SEEDS[:2])
    _, tables = tables_of(tmp_path)
    averages = {row[0]: row[-1] for row in rows_of(tables["glue"], "Measured here")[::2]}
    assert averages["UniPELT (as published)"] == "n/a (1/2 complete)"
    assert averages["Linear probe"] == "n/a (1/2 complete)"
    assert averages["LoRA"].startswith("69.")
    assert "2/3 seeds" in row_of(tables["glue"], "Measured here", "Linear probe")[9]
    (panel,) = (p.title for p in tables["glue"].panels if p.title.startswith("Measured"))
    assert panel.endswith("average of 2: CoLA, RTE")


def test_a_failed_run_is_counted_and_leaves_the_average_out(tmp_path):
    write_block(tmp_path, ("glue_rte",), {"lora": 0.7, "full_ft": 0.8})
    write_block(tmp_path, ("glue_rte",), {"linear_probe": 0.6}, seeds=SEEDS[:2])
    lost = {"method": "linear_probe", "model": "roberta_base", "dataset": "glue_rte", "seed": 2}
    write_failure(tmp_path, "lost", **lost)
    _, tables = tables_of(tmp_path)
    row = row_of(tables["glue"], "Measured here", "Linear probe")
    assert row[9].endswith("2/3 seeds, 1 failed")
    assert row[-1] == "n/a (0/1 complete)"
    assert "1 run on these data sets has failed and is in no number here." in tables["glue"].notes


def test_it_is_said_on_which_rows_training_was_stopped(tmp_path):
    write_block(tmp_path, ("glue_cola",), {"lora": 0.7}, **{"development.split": "1,000 training rows"})
    write_block(tmp_path, ("glue_rte",), {"lora": 0.7}, **{"development.split": "the evaluated rows themselves"})
    _, tables = tables_of(tmp_path)
    said = "chosen on 1,000 training rows (CoLA); the evaluated rows themselves (RTE)."
    assert any(note.endswith(said) for note in tables["glue"].notes)


def test_rows_are_told_data_set_by_data_set(tmp_path):
    small = {"evaluation_split": "articles.xml[uid%90:]", "metric": "f1_macro"}
    write_block(tmp_path, ("domain_hyperpartisan",), {"lora": 0.7}, shots=516, **small)
    write_block(tmp_path, ("domain_rct",), {"lora": 0.7}, shots=1000, metric="f1_micro", evaluation_split="test")
    write_block(tmp_path, ("domain_rct",), {"full_ft": 0.7}, shots=180_040, metric="f1_micro", evaluation_split="test")
    _, tables = tables_of(tmp_path)
    (note,) = (note for note in tables["domains"].notes if note.startswith("Rows here"))
    assert "RCT 1,000 to 180,040 and 120 (test); HyperPartisan 516 and 120 (articles.xml[uid%90:])." in note
    assert "Published scores are of rows of their own." in note


def test_development_rows_are_told_where_they_are_not_a_thousand(tmp_path):
    for dataset, rows in (("glue_cola", 1000), ("glue_rte", 277), ("glue_mrpc", 408)):
        for shots in (100, 500):
            used = 1000 if (dataset, shots) == ("glue_mrpc", 100) else rows
            write_block(tmp_path, (dataset,), {"lora": 0.6}, shots=shots, **{"development.rows": used})
    write_block(tmp_path, ("glue_rte",), {"lora": 0.7}, **{"development.rows": 277})
    _, tables = tables_of(tmp_path)
    said = "Development rows, where they are not 1,000: MRPC 408 (K = 500); RTE 277 (K = 100, 500)."
    assert said in tables["glue_low_resource"].notes
    assert "RTE 100 to 500 and 120" in " ".join(tables["glue_low_resource"].notes)
    assert not any("Development rows" in note for note in tables["glue"].notes)


def test_models_are_averaged_over_their_own_data_sets(tmp_path):
    write_block(tmp_path, ("glue_cola", "glue_rte"), {"lora": 0.7})
    write_block(tmp_path, ("glue_rte",), {"lora": 0.6}, model="minilm_l6")
    _, tables = tables_of(tmp_path)
    assert row_of(tables["glue"], "Measured here: GLUE, MiniLM-L6", "LoRA")[-1] != "n/a"
    assert row_of(tables["glue"], "Measured here: GLUE, RoBERTa-base", "LoRA")[1] == "RoBERTa-base"


def test_low_resource_stands_apart_block_by_block_in_unipelts_columns(found):
    summary, tables = found
    table = tables["glue_low_resource"]
    assert [group for group, _ in table.columns[2:-1]] == "SST-2 MRPC CoLA RTE QNLI STS-B MNLI QQP".split()
    assert [panel.title.split(";")[0] for panel in table.panels] == [
        "Measured here: GLUE, K = 100, RoBERTa-base",
        "Published: arXiv 2110.07577, table1 K100",
        "Measured here: GLUE, K = 500, RoBERTa-base",
        "Published: arXiv 2110.07577, table1 K500",
    ]
    frame = summary.experiment.records.query("method == 'full_ft' and dataset == 'glue_rte'")
    for shots in (100, 500):
        own = frame[frame.shots == shots].score
        cell = row_of(table, f"Measured here: GLUE, K = {shots}", "Full fine-tuning")[5]
        assert cell == f"{100 * own.mean():.1f} ({100 * own.std():.1f})"
    theirs = row_of(table, "Published: arXiv 2110.07577, table1 K100", "UniPELT (APL)")
    assert theirs[2:4] + theirs[-1:] == ["82.36 (0.86)", "81.71 (0.72)", "62.59 (1.4)"]
    assert SECOND_HAND not in table.notes, "all of it was read in the paper"
    assert set(table.frame.query("source != 'measured here'").mark) == {""}


def test_swept_shots_are_in_no_name(found):
    """The whole experiment names its arms by the shots, as these differ; within a block they do not."""
    summary, tables = found
    assert any("shots" in arm.variant for arm in summary.arms)
    assert not any(arm.variant for block in blocks(summary) for arm in block.arms)
    names = {row[0] for row in rows_of(tables["encoder_parameters"], "Measured here")}
    assert names == {method_style(method).label for method in LEVELS}


def test_what_is_swept_beside_the_shots_is_in_the_name(tmp_path):
    for rate in (0.0002, 0.0005):
        for shots in (100, 3000):
            config = {"provenance.config": {"method": {"name": "lora", "learning_rate": rate}}}
            for seed in SEEDS:
                changes = {"method": "lora", "dataset": "glue_rte", "seed": seed, "shots": shots, **config}
                write_labels(tmp_path, f"{rate}-{shots}-{seed}", 0.7, **changes)
    _, tables = tables_of(tmp_path)
    names = {row[0] for row in rows_of(tables["glue"], "Measured here")} - {""}
    assert names == {"LoRA, learning_rate=0.0002", "LoRA, learning_rate=0.0005"}


def test_domains_show_both_kinds_of_f1_and_which_one_others_print(found):
    summary, tables = found
    table = tables["domains"]
    for dataset, panel in (("domain_chemprot", "ChemProt"), ("domain_citation_intent", "ACL-ARC")):
        own = summary.experiment.records.query(f"method == 'lora' and dataset == '{dataset}'")
        row = row_of(table, panel, "LoRA")
        for position, kind in ((3, "scores.f1_micro"), (4, "scores.f1_macro")):
            assert row[position] == f"{100 * own[kind].mean():.1f} ({100 * own[kind].std():.1f})"
        assert row[3] != row[4]
        low, high = map(float, row[6].strip("[]").split(", "))
        assert low <= 100 * own.score.mean() <= high, "of the data set's own metric"
    published_rows = {tuple(row[:3]): row[3:6] for row in rows_of(table, "ChemProt")}
    name = ("Full fine-tuning", "RoBERTa-base", "arXiv 2004.10964, table5")
    assert published_rows[name] == [f"81.9{MARK}", "n/a", "n/a"]
    published_rows = {tuple(row[:3]): row[3:6] for row in rows_of(table, "ACL-ARC")}
    assert published_rows[name] == ["n/a", f"63.0{MARK}", "n/a"]
    ours = ("PT + UniPELT", "RoBERTa-base", "arXiv 2405.05493, domain")
    assert published_rows[ours] == ["n/a", "n/a", f"82.10{MARK}"]
    assert any("to the last digit" in note for note in table.notes)


def test_squad_has_exact_match_and_token_f1(found):
    summary, tables = found
    table = tables["squad"]
    own = summary.experiment.records.query("method == 'lora' and dataset == 'xquad_en'")
    row = row_of(table, "Measured here", "LoRA")
    for position, metric in ((5, "exact_match"), (6, "token_f1")):
        assert (
            row[position] == f"{100 * own[f'scores.{metric}'].mean():.1f} ({100 * own[f'scores.{metric}'].std():.1f})"
        )
    assert row[2:5] == ["n/a"] * 3, "SQuAD's own column is there for the published rows"
    assert row_of(table, "Published: arXiv 2405.05493", "UniPELT (“Paper”)")[2:4] == [f"82.37{MARK}", f"90.23{MARK}"]
    assert any("RoBERTa-large: no baseline" in note for note in table.notes)


def test_parameters_are_three_counts_beside_the_printed_one(found):
    _, tables = found
    table = tables["encoder_parameters"]
    row = row_of(table, "Measured here", "UniPELT (as published)")
    assert row[2:10] == [
        "11,083,376", "8.93 %", f"11,083,376{MARK}", "1,410,672", "1.14 %", "n/a", "1,410,672", "1.14 %",
    ]  # fmt: skip
    assert row[10] == "592,130"
    assert row_of(table, "Measured here", "LoRA")[8:10] == ["0", "0 %"], "merged into the weights"
    assert row_of(table, "Published, not run here: arXiv 2110", "UniPELT (APL)")[5:8] == ["n/a", "1.26 %", "1.4M"]
    (divided,) = (note for note in table.notes if note.startswith("Of model:"))
    assert "RoBERTa-base 124,055,040" in divided
    assert f"of 124,645,632{MARK}, RoBERTa-base with its pooler" in divided
    (why,) = (note for note in table.notes if "count different things" in note)
    assert f"8.892 %{MARK}" in why
    assert f"89 % of it{MARK}" in why
    assert f"1,410,672{MARK}, 1.13 %{MARK}" in why


def test_the_prefix_network_is_what_the_printed_count_needs():
    """prefix + adapters of width 48 + LoRA of rank 8 on q and v + four gates in each of twelve layers."""
    network, prefix = prefix_network(tokens=10, width=768, hidden=512, layers=12)
    adapters, lora, gates = 12 * (2 * 768 * 48 + 48 + 768), 12 * 2 * 2 * 8 * 768, 12 * 4 * 769
    printed = published.printed_in("2405.05493", "params", method="unipelt", metric="trainable_params")
    assert network + adapters + lora + gates == printed.number.item()
    assert prefix + adapters + lora + gates == PARAMETERS["unipelt_paper"][1]


def test_without_counts_there_is_no_table_of_them(tmp_path):
    write_block(tmp_path, ("glue_rte",), {"lora": 0.7})
    for path in (tmp_path / "records").glob("*.json"):
        content = {k: v for k, v in json.loads(path.read_text()).items() if k.split(".")[-1] not in
                   ("trained", "stored", "served", "head")}  # fmt: skip
        path.write_text(json.dumps(content))
    summary, tables = tables_of(tmp_path)
    assert set(tables) == {"glue"}
    assert set(encoder_figures.titles(summary)) == {"glue_flops"}


# -- second-hand numbers ------------------------------------------------------------------------------------------


def test_sources_say_which_numbers_are_second_hand():
    frame = published.encoder_numbers()
    assert frame[frame.paper == "2405.05493"].second_hand.all()
    assert frame[frame.paper == "2004.10964"].second_hand.all()
    assert not frame[frame.paper == "2110.07577"].second_hand.any()
    assert not frame[frame.paper == "fairseq_roberta"].second_hand.any()


def test_second_hand_numbers_are_marked_in_every_form(everything, found):
    """No cell with such a number is without its mark, whatever the form; what the mark means stands beneath."""
    _, tables = found
    sources = ("2405.05493", "2004.10964")
    for name in ("glue", "domains", "squad", "encoder_parameters"):
        table = tables[name]
        rows = [(panel.title, row) for panel in table.panels for row in panel.rows]
        theirs = [row for title, row in rows if any(source in f"{title} {row}" for source in sources)]
        cells = [cell for row in theirs for cell in row[2:] if cell[:1].isdigit()]
        assert cells
        assert all(cell.endswith(MARK) for cell in cells), name
        files = {suffix: (everything / "tables" / f"{name}.{suffix}").read_text() for suffix in ("md", "tex")}
        for cell in cells:
            assert f"| {cell} |" in files["md"]
            assert f"& {latex(cell)} " in files["tex"]
        assert SECOND_HAND in files["md"]
        assert latex(SECOND_HAND) in files["tex"]
        frame = pd.read_csv(everything / "tables" / f"{name}.csv").fillna({"mark": ""})
        marked = frame[frame.source.isin([f"arXiv {source}" for source in sources])]
        assert len(marked)
        assert marked.mark.str.contains("second-hand").all()
        assert marked.read_in.str.len().gt(0).all()
    assert set(frame[frame.source == "arXiv 2110.07577"].mark) == {""}, "read in the paper"
    beside_ours = frame[(frame.source == "measured here") & frame.trained_printed.notna()]
    assert set(beside_ours.method) == {"unipelt_paper", "unipelt_paper_pt"}
    assert (beside_ours.mark == "second-hand (printed)").all()


def test_the_page_never_prints_a_second_hand_number_bare(everything):
    page = re.sub(r"<svg.*?</svg>", "", (everything / "report.html").read_text(), flags=re.DOTALL)
    for value in ("86.35", "85.66", "66.14", "82.10", "90.23", "8.892 %"):
        assert page.count(value) == page.count(value + MARK) > 0, value


# -- figures ------------------------------------------------------------------------------------------------------


def test_figures_are_written_and_not_empty(everything, found):
    summary, _ = found
    names = set(encoder_figures.titles(summary))
    assert names == {
        "glue_low_resource", "glue_parameters", "glue_flops", "glue_500_parameters", "glue_500_flops",
        "domains_parameters", "domains_flops", "squad_parameters", "squad_flops",
    }  # fmt: skip
    assert all(encoder_figures.READING[name].count(". ") == 1 for name in names)
    for name in DRAWN:
        assert all(axes.lines and axes.texts for axes in encoder_figures.draw(summary, name).axes)
        for suffix in ("pdf", "png"):
            assert (everything / "figures" / f"{name}.{suffix}").stat().st_size > 5_000, name


def test_points_stand_at_what_was_counted_and_free_methods_are_levels(found):
    summary, _ = found
    (glue,) = (part for part in encoder_figures.parts_drawn(summary) if part.name == "glue")
    trained, stored = encoder_figures.panels(summary, glue, "parameters")
    places = {point.label: point for point in trained.points}
    assert places["UniPELT (as published)"].x == 11_083_376
    assert {point.label: point.x for point in stored.points}["UniPELT (as published)"] == 1_410_672
    assert [line.label for line in trained.lines] == ["Linear probe"]
    frame = summary.experiment.records.query("method == 'lora' and shots == 3000 and dataset.str.startswith('glue')")
    assert places["LoRA"].y == pytest.approx(100 * frame.groupby("dataset").score.mean().mean())
    assert places["LoRA"].low < places["LoRA"].y < places["LoRA"].high


def test_models_on_other_data_sets_are_left_out_of_a_figure_and_named(tmp_path):
    write_block(tmp_path, ("glue_cola", "glue_rte"), {"lora": 0.7, "full_ft": 0.8})
    write_block(tmp_path, ("glue_cola", "glue_rte"), {"lora": 0.7}, model="bert_base")
    write_block(tmp_path, ("glue_rte",), {"lora": 0.6}, model="minilm_l6")
    summary = summarise(load(tmp_path))
    (part,) = encoder_figures.parts_drawn(summary)
    trained, _ = encoder_figures.panels(summary, part, "parameters")
    assert [(point.label, point.open_marker) for point in trained.points] == [
        ("LoRA", False), ("Full fine-tuning", False), ("LoRA · BERT-base", True),
    ]  # fmt: skip
    caption = encoder_figures.titles(summary)["glue_parameters"]
    assert caption.endswith("(not drawn, as they ran on other data sets: MiniLM-L6)")


def test_curves_pass_through_the_averages_of_every_k(found):
    summary, _ = found
    ours, theirs = encoder_figures.curves(summary)
    curve = next(curve for curve in ours.curves if curve.label == "LoRA")
    frame = summary.experiment.records.query("method == 'lora' and dataset in ('glue_mrpc', 'glue_rte')")
    for shots, (score, low, high) in curve.by_shots.items():
        wanted = 100 * frame[frame.shots == shots].groupby("dataset").score.mean().mean()
        assert score == pytest.approx(wanted)
        assert low <= score <= high
    assert set(curve.by_shots) == {100, 500}
    apl = next(curve for curve in theirs.curves if curve.label == "UniPELT (APL)")
    assert apl.by_shots[1000][0] == 73.31


def test_names_of_curves_are_moved_apart_and_stay_inside():
    assert encoder_figures.apart([10, 11, 50], 12, 0, 100) == [10, 22, 50]
    assert encoder_figures.apart([90, 95, 99], 12, 0, 100) == [76, 88, 100]
    assert encoder_figures.apart([-5], 12, 0, 100) == [0]


def test_pretraining_is_shared_by_the_data_sets_that_start_from_it(tmp_path):
    own, shared = {"flops.adapt.measured": 1e12}, stage(8e12, corpus=["both"])
    for dataset, last in (("domain_chemprot", shared), ("domain_rct", shared), ("domain_imdb", stage(8e12))):
        write_block(tmp_path, (dataset,), {"full_ft": 0.8}, **own, **bill(last))
    write_block(tmp_path, ("domain_rct",), {"lora": 0.7}, **own)
    (block,) = blocks(summarise(load(tmp_path)))
    spent = block.arm("full_ft").records.groupby("dataset")[ADAPTING].first()
    assert spent.to_dict() == {"domain_chemprot": 5e12, "domain_rct": 5e12, "domain_imdb": 9e12}
    assert block.arm("lora").typical(ADAPTING) == 1e12


# -- verdicts -----------------------------------------------------------------------------------------------------

HELPS, HURTS, FULL, TAPT, DAPT, BOTH = (
    "Prompt tuning in front of UniPELT helps on GLUE",
    "Prompt tuning in front of UniPELT hurts on SQuAD",
    "UniPELT is on par with full fine-tuning at fewer parameters",
    "UniPELT is on par with pre-training on the task (TAPT) at fewer parameters",
    "UniPELT is on par with pre-training on the domain (DAPT) at fewer parameters",
    "UniPELT is on par with pre-training on the domain, then the task (DAPT + TAPT) at fewer parameters",
)


@pytest.mark.parametrize(
    ("first", "second", "on_glue", "on_squad"),
    [
        (0.60, 0.90, "it helps, as claimed", "it helps, against the claim"),
        (0.90, 0.60, "it hurts, against the claim", "it hurts, as claimed"),
        (0.80, 0.80, "these runs cannot tell whether it helps", "these runs cannot tell whether it hurts"),
    ],
)
def test_what_prompt_tuning_does_follows_the_data(tmp_path, first, second, on_glue, on_squad):
    levels = {"unipelt_paper": first, "unipelt_paper_pt": second}
    write_block(tmp_path, ("glue_cola", "glue_rte"), levels)
    write_block(tmp_path, ("squad",), levels, writer=write_answers)
    told = dict(verdicts(summarise(load(tmp_path))))
    assert set(told) == {HELPS, HURTS}
    assert told[HELPS][0].endswith(f": {on_glue}.")
    assert told[HURTS][0].endswith(f": {on_squad}.")
    wanted = "+30.0 points" if second > first else "−30.0 points" if second < first else "0.0 points"
    assert wanted in told[HELPS][0]
    assert "points of token F1 (" in told[HURTS][0]
    assert "2 data sets, 6 paired runs" in told[HELPS][0]
    assert f"prints +0.51{MARK}" in told[HELPS][1]
    assert f"prints −1.53{MARK}" in told[HURTS][1]
    assert SECOND_HAND in told[HELPS][1]


@pytest.mark.parametrize(
    ("unipelt", "full", "draw", "answer"),
    [
        (0.80, 0.80, "the same items", "on par within 1 point"),
        (0.80, 0.81, "", "whether they are on par within 1 point cannot be told"),
        (0.60, 0.90, "", "not on par, UniPELT is more than 1 point below"),
        (0.90, 0.60, "", "not on par, UniPELT is more than 1 point above"),
    ],
)
def test_on_par_needs_the_whole_interval_within_the_margin(tmp_path, unipelt, full, draw, answer):
    write_block(tmp_path, ("glue_rte",), {"unipelt_paper": unipelt, "full_ft": full}, draw=draw)
    ((title, (sentence, printed)),) = verdicts(summarise(load(tmp_path)))
    assert title == FULL
    assert f"prints −1.20{MARK}" in printed
    assert f": {answer};" in sentence
    assert "trains 11,083,376 (8.93 % of the other's) and stores 1,410,672 (1.14 % of the other's)." in sentence


def test_more_parameters_are_not_called_fewer(tmp_path):
    many = {"params.trained": 2e8, "params.stored": 2e8}
    write_block(tmp_path, ("glue_rte",), {"unipelt_paper": 0.8}, **many)
    write_block(tmp_path, ("glue_rte",), {"full_ft": 0.8})
    ((_, (sentence, _)),) = verdicts(summarise(load(tmp_path)))
    assert sentence.count("% of the other's, not fewer)") == 2


@pytest.mark.parametrize(("low", "high"), [(0.02, 0.05), (-0.05, -0.02)])
def test_a_distance_is_told_only_if_it_is_significant_after_holm(found, low, high):
    (block,) = (block for block in blocks(found[0]) if block.title == "Domains, RoBERTa-base")
    pair = Comparison(block.arm("unipelt_paper"), block.arm("full_ft"), 1, 3, (low + high) / 2, low, high, p=0.01)
    assert "cannot be told" in on_par(replace(pair, p_holm=0.06))
    assert "not on par, UniPELT is more than 1 point" in on_par(replace(pair, p_holm=0.04))


def test_holm_takes_all_comparisons_together(tmp_path):
    """One difference that is significant alone, and not among many that are none."""
    write_block(tmp_path, ("glue_rte",), {"unipelt_paper": 0.70, "full_ft": 0.87}, draw="", seeds=(0, 1))
    alone = dict(verdicts(summarise(load(tmp_path))))[FULL][0]
    assert "more than 1 point below" in alone
    for dataset in ("glue_cola", "squad", "domain_rct", "domain_imdb", "domain_sciie"):
        for model in ("minilm_l6", "bert_base", "roberta_large"):
            writer = write_answers if dataset == "squad" else write_labels
            levels = {"unipelt_paper": 0.8, "full_ft": 0.8}
            write_block(tmp_path, (dataset,), levels, writer, seeds=(0, 1), model=model)
    among_many = dict(verdicts(summarise(load(tmp_path))))[FULL]
    (same,) = (sentence for sentence in among_many if sentence.startswith("GLUE, RoBERTa-base"))
    assert same.split(":")[1] == alone.split(":")[1], "the difference and its interval"
    assert "cannot be told" in same


def test_tapt_is_full_fine_tuning_of_another_model(found, tmp_path):
    told = dict(verdicts(found[0]))
    (sentence,) = told[TAPT]
    assert sentence.startswith("Domains, RoBERTa-base: ")
    assert "2 data sets, 6 paired runs" in sentence
    write_block(tmp_path, ("domain_rct",), {"unipelt_paper": 0.9})
    write_block(tmp_path, ("domain_rct",), {"full_ft": 0.6}, model="roberta_base_tapt")
    ((title, (sentence,)),) = verdicts(summarise(load(tmp_path)))
    assert title == TAPT
    assert "+30.0 points" in sentence
    assert "more than 1 point above" in sentence
    for suffix in ("dapt", "dapt_tapt"):
        write_block(tmp_path, ("domain_rct",), {"full_ft": 0.7}, model=f"roberta_base_{suffix}")
    told = dict(verdicts(summarise(load(tmp_path))))
    assert list(told) == [TAPT, DAPT, BOTH]
    assert all("+20.0 points" in told[title][0] for title in (DAPT, BOTH))


def test_claims_are_answered_model_by_model(tmp_path):
    for model, second in (("minilm_l6", 0.9), ("roberta_base", 0.5)):
        write_block(tmp_path, ("glue_rte",), {"unipelt_paper": 0.7, "unipelt_paper_pt": second}, model=model)
    sentences = dict(verdicts(summarise(load(tmp_path))))[HELPS]
    assert [sentence.split(":")[0] for sentence in sentences[:2]] == ["GLUE, MiniLM-L6", "GLUE, RoBERTa-base"]
    assert "it helps, as claimed" in sentences[0]
    assert "it hurts, against the claim" in sentences[1]


# -- where it stands ----------------------------------------------------------------------------------------------


def test_other_experiments_have_nothing_of_it(tmp_path):
    write_experiment(tmp_path, methods=("ia3", "full_ft", "icl"), datasets=("micro_rte",), seeds=(0, 1))
    summary = summarise(load(tmp_path))
    built = tables.build_all(summary)
    assert not set(built) & set(encoder_tables.NAMES)
    assert encoder_figures.drawings(summary) == {}
    assert verdicts(summary) == []
    page = report.render(summary, built, defaultdict(str))
    assert "Encoders with a trained head" not in page
    assert MARK not in page


def test_the_page_shows_all_of_it(everything, found):
    page = (everything / "report.html").read_text()
    for name in (*encoder_tables.NAMES, *encoder_figures.titles(found[0])):
        assert f'id="{name}"' in page
    for title in (HELPS, FULL, TAPT):
        assert f"<h3>{title}?</h3>" in page


def test_an_archive_says_the_same(everything, found, tmp_path):
    summary, before = found
    archive.pack(everything, tmp_path)
    kept, after = tables_of(tmp_path)
    for name in encoder_tables.NAMES:
        assert to_markdown(after[name]) == to_markdown(before[name])
        pd.testing.assert_frame_equal(after[name].frame, before[name].frame)
    assert verdicts(kept) == verdicts(summary)


def test_names_of_methods_and_models():
    labels = [method_style(m).label for m in ("unipelt", "unipelt_paper", "unipelt_paper_pt", "unipelt_ia3")]
    assert len(set(labels)) == 4
    assert method_style("unipelt_stack3").label == "UniPELT × 3"
    assert method_style("linear_probe").label == "Linear probe"
    models = ("minilm_l6", "minilm_l6_tapt", "minilm_l6_dapt", "minilm_l6_dapt_tapt", "roberta_base_tapt", "micro_t0")
    assert [model_label(model) for model in models] == [
        "MiniLM-L6", "MiniLM-L6 + TAPT", "MiniLM-L6 + DAPT", "MiniLM-L6 + DAPT + TAPT", "RoBERTa-base + TAPT",
        "micro_t0",
    ]  # fmt: skip
