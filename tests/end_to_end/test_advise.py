"""`python -m experiments.advise` on made-up experiments whose answers are known by hand."""

import sys

import numpy as np
import pytest

from analysis import archive
from analysis.collect import load
from analysis.statistics import holm
from analysis.summary import summarise
from experiments import advise as program
from experiments.cheapest import BYTES, SECONDS, Question, advise
from tests.analysis.synthetic import bill, record, stage, write_experiment, write_run

GB = 1_000_000_000
# method -> share of right answers, FLOPs to adapt, FLOPs per prediction, peak bytes to adapt and to predict, storage
ARMS = {
    "bitfit": (0.80, 1e11, 2e8, 0.4 * GB, 0.2 * GB, 30_000),
    "lora": (0.80, 3e11, 1e8, 3 * GB, 0.2 * GB, 300_000),  # pays off from 2,000 predictions on
    "prefix": (0.60, 5e10, 1e8, 0.3 * GB, 0.2 * GB, 70_000),
    "icl": (0.50, 0.0, 4e9, None, 1 * GB, 4_000),
    "zero_shot": (0.20, 0.0, 5e7, None, 0.1 * GB, 0),
}


def right(share, dataset, seed, items=100):
    """Exactly this share of the items, others for every seed."""
    answered = np.zeros(items)
    answered[np.random.default_rng([dataset, seed]).permutation(items)[: round(share * items)]] = 1
    return answered


def experiment(folder, arms=tuple(ARMS), seeds=(0, 1, 2, 3, 4), **changes):
    for method in arms:
        share, adapt, predict, to_adapt, to_predict, storage = ARMS[method]
        tuned = method not in ("icl", "zero_shot")
        for dataset in range(2):
            for seed in seeds if method != "zero_shot" else (0,):
                own = {
                    "method": method,
                    "dataset": f"data_{dataset}",
                    "seed": seed,
                    "shots": 0 if method == "zero_shot" else 32,
                    "params.trainable": 1000 if tuned else 0,
                    "flops.adapt.measured": adapt,
                    "flops.predict.measured": predict,
                    "memory.adapt.peak_bytes": to_adapt,
                    "memory.predict.peak_bytes": to_predict,
                    "storage.bytes": storage,
                }
                content = record(f"{method}-{dataset}-{seed}", **{**own, **changes.get(method, {})})
                write_run(folder, content, right(share, dataset, seed))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return experiment(tmp_path_factory.mktemp("made_up"))


@pytest.fixture
def ask(monkeypatch, capsys):
    """ask(*arguments): the exit code, and what was printed on standard output and on standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["experiments.advise", *map(str, arguments)])
        code = 0
        try:
            program.main()
        except SystemExit as stop:
            code = stop.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def rows(out):
    """Method -> the cells of its line in the table."""
    lines = out[out.index("-----") :].splitlines()[1:]
    return {line.split()[0]: line.split() for line in lines if line.strip()}


@pytest.mark.parametrize(
    ("predictions", "answer", "total"),
    [
        ("0", "BitFit", "1.0×10¹¹"),  # prompting would cost nothing, but scores 30 points less
        ("1000", "BitFit", "3.0×10¹¹"),  # 1e11 + 1000 x 2e8, against 4e11 for LoRA
        ("1999", "BitFit", "5.0×10¹¹"),
        ("2001", "LoRA", "5.0×10¹¹"),
        ("1e6", "LoRA", "1.0×10¹⁴"),
        ("1_000_000", "LoRA", "1.0×10¹⁴"),
    ],
)
def test_the_smallest_bill_of_the_best_wins(ask, folder, predictions, answer, total):
    code, out, err = ask(folder, f"predictions={predictions}")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].endswith(f"predictions: {answer}.")
    assert f"{total} in all" in out
    assert "equally cheap" not in out
    assert "Only one seed" not in out


def test_two_answers_may_be_equally_cheap(ask, folder):
    """1e11 + 2000 x 2e8 = 3e11 + 2000 x 1e8"""
    _, out, _ = ask(folder, "predictions=2000")
    assert out.splitlines()[0] in ("For 2,000 predictions: BitFit or LoRA.", "For 2,000 predictions: LoRA or BitFit.")
    assert "equally cheap; the first two score the same" in out
    assert out.count("use this") == 2


def test_every_method_is_in_the_table_with_its_verdict(ask, folder):
    _, out, _ = ask(folder, "predictions=1000", "memory=1GB")
    table = rows(out)
    assert set(table) == {"BitFit", "Prefix", "ICL", "Zero-shot", "LoRA"}
    assert table["BitFit"][-2:] == ["use", "this"]
    assert table["Prefix"][-2:] == table["ICL"][-2:] == table["Zero-shot"][-2:] == ["lower", "score"]
    assert table["LoRA"][-2:] == ["memory", "exceeded"]
    assert "4.0e12" in table["ICL"]
    assert "highest of 4 methods that fit" in out


@pytest.mark.parametrize(
    ("limits", "answer"),
    [
        (["memory=3GB"], "LoRA"),  # exactly what it needs
        (["memory=2.9GB"], "BitFit"),
        (["memory=2900MB"], "BitFit"),
        (["memory=2.9e9"], "BitFit"),
        (["memory=2GiB"], "BitFit"),
        (["memory=3GiB"], "LoRA"),
        (["storage=100kB"], "BitFit"),
        (["training_flops=2e11"], "BitFit"),
        (["training_flops=6e10"], "Prefix tuning"),
        (["training_flops=6e10", "storage=5000"], "ICL"),
        (["training_flops=0"], "ICL"),
        (["memory=0.35GB"], "Prefix tuning"),
        (["memory=150 MB"], "Zero-shot"),  # its peak in predicting: nothing is adapted
        (["storage=0"], "Zero-shot"),
    ],
)
def test_limits_decide_who_is_asked(ask, folder, limits, answer):
    code, out, _ = ask(folder, "predictions=10000", *limits)
    assert code == 0
    assert out.splitlines()[0] == f"For 10,000 predictions within {' '.join(limits)}: {answer}."


@pytest.mark.parametrize(
    ("limits", "nearest"),
    [
        (["memory=50MB"], "the closest is Zero-shot (memory 100 MB)"),
        (["memory=290MB", "training_flops=2e11", "storage=0", "latency=1"], "have no latency"),
        (["memory=90MB", "storage=100kB"], "the closest is Zero-shot (memory 100 MB)"),
        (["memory=0"], "the closest is"),
    ],
)
def test_limits_that_leave_nothing_are_one_line(ask, folder, limits, nearest):
    code, out, err = ask(folder, "predictions=1e5", *limits)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith(f"error: {' '.join(limits)}: ")
    assert nearest in err


def test_the_closest_exceeds_its_limits_by_the_smallest_factor(ask, tmp_path):
    """BitFit needs 1.3 times the memory; LoRA 1.5 times the storage and ten times the memory."""
    made = experiment(tmp_path, arms=("bitfit", "lora"))
    _, _, err = ask(made, "predictions=1", "memory=300MB", "storage=200kB")
    assert "closest is BitFit (memory 400 MB)" in err


def test_what_was_not_measured_does_not_fit(ask, tmp_path):
    made = experiment(tmp_path, arms=("bitfit", "lora"), lora={"memory.adapt.peak_bytes": None})
    _, out, _ = ask(made, "predictions=1e6", "memory=8GB")
    assert out.splitlines()[0].endswith(": BitFit.")
    assert "memory unknown" in out
    _, out, _ = ask(made, "predictions=1e6")
    assert out.splitlines()[0].endswith(": LoRA.")


def test_what_cannot_be_billed_is_left_out_and_said(ask, tmp_path):
    made = experiment(tmp_path, arms=("bitfit", "lora"), lora={"flops.predict.measured": None})
    _, out, _ = ask(made, "predictions=1e6")
    assert out.splitlines()[0].endswith(": BitFit.")
    assert "Left out, because some data set or its FLOPs are missing: LoRA." in out
    _, out, _ = ask(made, "predictions=0")
    assert "Left out" not in out, "without predictions their price does not matter"


def test_a_method_without_all_data_sets_is_left_out_and_said(ask, tmp_path):
    made = experiment(tmp_path, arms=("bitfit", "lora"))
    for path in (made / "records").glob("lora-1-*.json"):
        path.unlink()
    _, out, _ = ask(made, "predictions=1e6")
    assert out.splitlines()[0].endswith(": BitFit.")
    assert "Left out" in out


def test_a_latency_counts_where_records_have_one(ask, tmp_path):
    made = experiment(
        tmp_path,
        arms=("bitfit", "lora"),
        bitfit={"latency.median": 0.1, "latency.p95": 0.15},
        lora={"latency.median": 0.2, "latency.p95": 0.3},
    )
    for limit, answer in (("0.3", "LoRA"), ("250ms", "BitFit"), ("150ms", "BitFit")):
        _, out, _ = ask(made, "predictions=1e6", f"latency={limit}")
        assert out.splitlines()[0].endswith(f": {answer}."), limit
    assert "latency 0.15 s" in out
    code, _, err = ask(made, "predictions=1e6", "latency=0.1")
    assert code == 2
    assert "closest is BitFit (latency 0.15 s)" in err


def test_a_single_seed_is_said(ask, tmp_path):
    made = experiment(tmp_path, seeds=(3,))
    _, out, _ = ask(made, "predictions=1e5")
    assert "Only one seed was run" in out
    for path in (made / "records").glob("zero_shot*.json"):
        path.unlink()
    write_run(made, record("more", method="bitfit", dataset="data_0", seed=4), right(0.8, 0, 4))
    _, out, _ = ask(made, "predictions=1e5")
    assert "one seed only" in out


def shifted(answered, points):
    """So many answers more right, or fewer."""
    changed = answered.copy()
    changed[np.flatnonzero(answered == (points < 0))[: abs(points)]] = points > 0
    return changed


@pytest.mark.parametrize(("by_seed", "answer"), [((2, -2, 2, -2, 2), "bitfit"), ((20, 20, 20, 20, 20), "lora")])
def test_a_better_method_is_worth_its_price_only_if_it_is_told_apart(tmp_path, by_seed, answer):
    """Two points more in the median, but not in every seed; and twenty in every one."""
    for dataset in range(2):
        for seed, points in enumerate(by_seed):
            answered = right(0.6, dataset, seed)
            for method, correct in (("bitfit", answered), ("lora", shifted(answered, points))):
                own = {"method": method, "dataset": f"data_{dataset}", "seed": seed}
                own["flops.adapt.measured"] = ARMS[method][1]
                write_run(tmp_path, record(f"{method}-{dataset}-{seed}", **own), correct)
    found = advise(summarise(load(tmp_path)), Question(tmp_path, 0, {}, ""))
    assert found.best.arm.method == "lora"
    assert [candidate.arm.method for candidate in found.answers] == [answer]
    assert [candidate.total for candidate in found.answers] == [ARMS[answer][1]]


def test_p_values_are_adjusted_over_the_candidates_alone(folder):
    summary = summarise(load(folder))
    for limits, others in (({}, 4), ({"memory": 1 * GB}, 3), ({"memory": 0.5 * GB}, 2)):
        found = advise(summary, Question(folder, 1000, limits, ""))
        pairs = list(found.against_best.values())
        assert len(pairs) == others
        assert [pair.p_holm for pair in pairs] == pytest.approx(holm([pair.p for pair in pairs]))
        assert all(pair.second.key == found.best.arm.key for pair in pairs)
        assert all(pair.p_holm <= summary.compare(pair.first, pair.second).p_holm for pair in pairs)


def test_an_archive_says_the_same(ask, folder, tmp_path):
    assert archive.main([str(folder), str(tmp_path / "kept")]) == 0
    ask("--help")  # swallows what the archive has printed
    asked = ("predictions=5000", "memory=1GB")
    assert ask(tmp_path / "kept", *asked) == ask(folder, *asked)


def test_several_models_are_told_apart(ask, tmp_path):
    made = write_experiment(tmp_path, methods=("ia3", "icl"), datasets=("micro_wsc", "micro_cb"))
    _, out, _ = ask(made, "predictions=100")
    assert out.splitlines()[0] == "For 100 predictions: (IA)³ · micro_t0."


def test_help_helps(ask):
    code, out, _ = ask("--help")
    assert code == 0
    for setting in ("predictions=", "memory=", "storage=", "training_flops=", "latency="):
        assert setting in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "expected one folder"),
        (["predictions=5"], "expected one folder"),
        (["FOLDER"], "predictions=: expected"),
        (["FOLDER", "FOLDER", "predictions=5"], "expected one folder"),
        (["nowhere", "predictions=5"], "nowhere: no such folder"),
        (["FOLDER", "predictions=-5"], "predictions=-5: expected a whole number"),
        (["FOLDER", "predictions=1.5"], "predictions=1.5: expected a whole number"),
        (["FOLDER", "predictions=many"], "predictions=many: expected a whole number"),
        (["FOLDER", "predictions="], "predictions=: expected a whole number"),
        (["FOLDER", "predictions=inf"], "predictions=inf: expected a whole number"),
        (["FOLDER", "predictions=nan"], "predictions=nan: expected a whole number"),
        (["FOLDER", "predictions=1e400"], "predictions=1e400: expected a whole number"),
        (["FOLDER", "predictions=1e300"], "predictions=1e300: expected a whole number"),
        (["FOLDER", "predictions=5GB"], "predictions=5GB: expected a whole number"),
        (["FOLDER", "predictions=5", "memory=8QB"], "memory=8QB: expected 8GB"),
        (["FOLDER", "predictions=5", "memory=GB"], "memory=GB: expected 8GB"),
        (["FOLDER", "predictions=5", "memory=-1"], "memory=-1: expected 8GB"),
        (["FOLDER", "predictions=5", "training_flops=1GB"], "training_flops=1GB: expected 1e15"),
        (["FOLDER", "predictions=5", "memroy=8GB"], "memroy=8GB: unknown"),
        (["FOLDER", "predictions=5", "--memory"], "--memory: unknown"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(ask, folder, arguments, says):
    code, out, err = ask(*(str(folder) if argument == "FOLDER" else argument for argument in arguments))
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert says in err


@pytest.mark.parametrize("broken", ["empty", "not_json", "no_labels", "nothing_everywhere"])
def test_a_folder_without_answers_is_one_line(ask, tmp_path, broken):
    if broken == "not_json":
        write_run(tmp_path, record("a"))
        (tmp_path / "records" / "a.json").write_text("{")
    elif broken == "no_labels":
        write_run(tmp_path, record("a", score=None))
    elif broken == "nothing_everywhere":
        write_run(tmp_path, record("a", dataset="one"), np.ones(4))
        write_run(tmp_path, record("b", dataset="two", method="lora"), np.ones(4))
    code, _, err = ask(tmp_path, "predictions=5")
    assert code == 2
    assert len(err.strip().splitlines()) == 1


def test_units_are_the_usual_ones():
    assert (BYTES["kb"], BYTES["mb"], BYTES["g"], BYTES["tib"]) == (1e3, 1e6, 1e9, 2**40)
    assert SECONDS["ms"] == 1e-3


def test_the_bill_is_that_of_the_records(ask, folder):
    """3e11 + 30,000 x 1e8 = 3.3e12; the peak is the larger one, that of adapting."""
    _, out, _ = ask(folder, "predictions=30000")
    assert (
        "The bill: 3.0×10¹¹ FLOPs to adapt and 1.0×10⁸ per prediction, 3.3×10¹² in all for 30,000; "
        "peak memory 3 GB, storage 300 kB."
    ) in out


def test_pretraining_is_part_of_the_bill(ask, tmp_path):
    """BitFit starts from 8e11 FLOPs of pre-training that two data sets share: 1e11 + 4e11 to adapt, LoRA 3e11."""
    made = experiment(tmp_path, arms=("bitfit", "lora"), bitfit=bill(stage(8e11)))
    _, out, _ = ask(made, "predictions=1000")
    assert out.splitlines()[0].endswith(": LoRA.")
    assert rows(out)["BitFit"][-6:-4] == ["7.0e11", "400"]
    code, _, err = ask(made, "predictions=1000", "memory=1GB", "training_flops=2e11")
    assert code == 2
    assert "closest is BitFit (training_flops 5.0e11)" in err
    _, out, _ = ask(made, "predictions=1000", "memory=1GB", "training_flops=5e11")
    assert "The bill: 5.0×10¹¹ FLOPs to adapt (4.0×10¹¹ of them as its share of pre-training) and" in out
