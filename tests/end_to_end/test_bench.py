"""The benchmark checks that both sides agree before it times them, and leaves a result with its origin."""

import json
import sys

from experiments.bench.__main__ import main


def test_a_short_benchmark_leaves_a_result(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench", "--pairs", "1", "--steps", "1", "--folder", str(tmp_path)])
    main()
    result = json.loads((tmp_path / "cpu.json").read_text())
    names = [entry["name"] for entry in result["results"]]
    assert {"train_5_seeds_ia3", "score_choices_micro_t0_micro_hswag"} <= set(names)
    assert all(entry["speedup"]["min"] > 0 for entry in result["results"])
    assert {"versions", "hardware", "git", "at"} <= result.keys()
    assert capsys.readouterr().out.count("x (") == len(names)
