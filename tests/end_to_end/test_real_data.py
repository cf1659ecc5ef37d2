"""Real few-shot files, real P3 templates, official validation sets, and a model folder with a BPE tokenizer."""

import json
from pathlib import Path

import pytest

from adaptbench.data.promptsource import load_promptsource
from adaptbench.record import KEYS
from tests.conftest import bpe_tokenizer, tiny_model
from tests.end_to_end.test_runs import records

SIZES = {"rte": 277, "cb": 56}


@pytest.fixture(scope="module")
def folder(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random T5 whose tokenizer is trained on the rows it will read."""
    texts = []
    for name in SIZES:
        for line in (real_data / f"superglue/{name}/val.jsonl").open(encoding="utf-8"):
            row = json.loads(line)
            texts += [row["premise"], row["hypothesis"]]
    folder = tmp_path_factory.mktemp("t5")
    tokenizer = bpe_tokenizer(texts, end_of_sequence=True)
    tokenizer.save_pretrained(folder)
    tiny_model("t5", len(tokenizer)).save_pretrained(folder)
    return folder


def test_the_whole_harness_on_rte_and_cb(call, tmp_path, monkeypatch, real_data, folder):
    monkeypatch.setenv("ADAPTBENCH_DATA", str(real_data))
    sizes = ("recipe.training.ia3.steps=3", "recipe.training.lora.steps=3", "model.max_length=1024")
    assert call("experiment=real_smoke", f"model.path={folder}", "progress=false", *sizes) == 0
    found = list(records(tmp_path / "outputs/real_smoke").values())
    cells = {(one["dataset"], one["method"], one["seed"]) for one in found}
    methods = ("zero_shot", "ia3", "lora", "icl")
    assert cells == {(dataset, method, seed) for dataset in SIZES for method in methods for seed in (0, 1)}
    for one in found:
        assert one["n_eval"] == SIZES[one["dataset"]]
        assert one["flops.predict.measured"] > 0
        assert set(KEYS) <= one.keys()
        if one["method"] == "icl":  # random BPE splits text into many tokens: whole demonstrations are dropped
            assert 0 < one["provenance.demonstrations"] < 32
        if one["method"] in ("ia3", "lora"):
            assert one["shots"] == 32
            assert one["flops.adapt.measured"] > 0
    by_cell = {(one["dataset"], one["method"], one["seed"]): one for one in found}
    for dataset in SIZES:
        zero, ia3 = by_cell[dataset, "zero_shot", 0], by_cell[dataset, "ia3", 0]
        ratio = ia3["flops.predict.measured"] / zero["flops.predict.measured"]
        assert ratio == pytest.approx(1.0), "(IA)^3 adds no matrix product"


@pytest.mark.parametrize("name", SIZES)
def test_every_template_renders_every_row(real_data, name):
    labels = {"entailment": 0, "not_entailment": 1} if name == "rte" else {}
    labels = labels or {"entailment": 0, "contradiction": 1, "neutral": 2}
    templates = load_promptsource(real_data / f"promptsource/super_glue/{name}/templates.yaml", name)
    assert len(templates) >= 10
    rows = [json.loads(line) for line in (real_data / f"superglue/{name}/val.jsonl").open(encoding="utf-8")]
    for path in sorted((real_data / f"few_shot/{name}/32_shot").glob("*.jsonl")):
        rows += [json.loads(line) for line in path.open(encoding="utf-8")]
    for row in rows:
        row["label"] = labels.get(row["label"], row["label"])
        for template in templates:
            prompt = template.render(str(row["idx"]), row)
            assert row["hypothesis"].strip() in prompt.input
            assert len(prompt.choices) == len(labels)
