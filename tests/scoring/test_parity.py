"""The same prompts give the same log-likelihoods and accuracies as other ways to compute them."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptbench.data.templates import Prompt
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.scoring.evaluate import evaluate
from adaptbench.scoring.scores import scores as scored
from adaptbench.tasks.choices import Choices
from experiments.export import export

DECODERS = ("llama", "gpt2", "opt")


def prompts() -> list[Prompt]:
    """Two to four choices, of unequal length, in tokens as well as in characters and bytes."""
    found = []
    for row in range(24):
        subject = ("the cat", "a dog", "the large red house", "it")[row % 4]
        choices = ("sat on the mat", "ran", "was blue or était café", "is a small good answer")[: 2 + row % 3]
        found.append(Prompt(str(row), "t", f"question {row}: what did {subject} do?", choices, row * 7 % len(choices)))
    return found


@pytest.mark.parametrize("architecture", DECODERS)
def test_scores_equal_a_plain_forward_pass_per_choice(backbones, model_folders, architecture):
    """No packing, no padding, no mask of ours: the model's own forward on prompt + choice, one at a time."""
    folder = model_folders[architecture]
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    (scores,) = evaluate(ZeroShot().prepare(backbones[architecture], [0]), prompts(), batch_size=5)
    for score in scores:
        for text, ours in zip(score.prompt.choices, score.log_likelihoods, strict=True):
            source = tokenizer(score.prompt.input)["input_ids"]
            target = tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
            with torch.inference_mode():
                log_p = model(torch.tensor([source + target])).logits[0].log_softmax(-1)
            plain = sum(log_p[len(source) + i - 1, token].item() for i, token in enumerate(target))
            assert ours == pytest.approx(plain, abs=1e-4)


def harness(folder, items, name):
    """lm-evaluation-harness 0.4.13 on these prompts; where it is not installed, what it answered when it was.

    `tests/scoring/harness/<name>.json` holds that answer. It is written anew by deleting it and running this test
    beside the package, and checked against the package wherever both are there.
    """
    kept = Path(__file__).parent / "harness" / f"{name}.json"
    if find_spec("lm_eval") is None or find_spec("datasets") is None:
        return json.loads(kept.read_text())
    found = asked(folder, items)
    found = {key: found[key] for key in ("results", "samples")}
    found = json.loads(json.dumps(found, default=str))
    if not kept.is_file():
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps(found, indent=1) + "\n")
    remembered = json.loads(kept.read_text())
    assert set(remembered["samples"]["toy"][0]) == set(found["samples"]["toy"][0])
    for then, now in zip(remembered["samples"]["toy"], found["samples"]["toy"], strict=True):
        assert (then["doc_id"], then["prompt_hash"]) == (now["doc_id"], now["prompt_hash"])
        numbers = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in (then, now)]
        assert numbers[0] == pytest.approx(numbers[1], abs=1e-4)
    return found


def asked(folder, items):
    """Through its own task machinery."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate as their_evaluate
    from lm_eval.models.huggingface import HFLM

    rows = [{"input": item.input, "choices": list(item.choices), "label": item.label} for item in items]
    table = datasets.Dataset.from_list(rows)
    config = {
        "task": "toy",
        "custom_dataset": lambda **_: {"test": table},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{input}}",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    language_model = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=4, device="cpu")
    task = ConfigurableTask(config=config)
    return their_evaluate(lm=language_model, task_dict={"toy": task}, bootstrap_iters=1, log_samples=True)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_scores_equal_lm_evaluation_harness(backbones, model_folders, architecture):
    items = prompts()
    theirs = harness(model_folders[architecture], items, architecture)
    (scores,) = evaluate(ZeroShot().prepare(backbones[architecture], [0]), items, batch_size=5)
    assert theirs["results"]["toy"]["acc,none"] == scored(Choices(), scores, "none")["accuracy"]
    assert theirs["results"]["toy"]["acc_norm,none"] == scored(Choices(), scores, "character")["accuracy"]
    samples = sorted(theirs["samples"]["toy"], key=lambda sample: sample["doc_id"])
    for sample, score in zip(samples, scores, strict=True):
        values = [float(answer[0]) for answer in sample["filtered_resps"]]
        assert list(score.log_likelihoods) == pytest.approx(values, abs=1e-4)
        assert sample["acc"] == (Choices().prediction(score, "none") == score.prompt.label)
        assert sample["acc_norm"] == (Choices().prediction(score, "character") == score.prompt.label)


def test_the_export_is_what_the_harness_would_have_written(tmp_path, monkeypatch, model_folders):
    """A cell run as users run it, exported, against the harness's own evaluation of the same prompts."""
    from hydra.core.global_hydra import GlobalHydra

    from experiments import run as program

    choices = ("ran", "sat on the mat", "is a small good answer")
    items = [Prompt(prompt.uid, "t", prompt.input, choices, int(prompt.uid) * 5 % 3) for prompt in prompts()]
    rows = [{"text": item.input, "label": choices[item.label]} for item in items]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    GlobalHydra.instance().clear()
    labels = ", ".join(f"{choice}: {index}" for index, choice in enumerate(choices))
    arguments = ["method=zero_shot", "model=local", f"model.path={model_folders['llama']}", "dataset=files",
                 "dataset.train=rows.jsonl", "dataset.evaluation=rows.jsonl", "dataset.shots=4", "seeds=[0]",
                 f"dataset.labels={{{labels}}}", "template=plain", "progress=false"]  # fmt: skip
    monkeypatch.setattr("sys.argv", ["experiments.run", *arguments])
    assert not program.main()
    (path,) = export(tmp_path / "outputs/default")
    results = json.loads(path.read_text())
    (samples,) = ([json.loads(line) for line in file.open()] for file in path.parent.glob("samples_files_*.jsonl"))
    record = json.loads(next((tmp_path / "outputs/default/records").glob("*.json")).read_text())
    assert results["results"]["files"]["acc_token,none"] == record["score"]
    theirs = harness(model_folders["llama"], items, "llama_exported")
    own = {key: value for key, value in theirs["results"]["toy"].items() if key.endswith(",none")}
    for key, value in own.items():
        assert results["results"]["files"][key] == pytest.approx(value), key
    assert {"results", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"} <= results.keys()
    logged = sorted(theirs["samples"]["toy"], key=lambda sample: sample["doc_id"])
    for ours, its in zip(samples, logged, strict=True):
        assert set(its) <= set(ours)
        assert (ours["prompt_hash"], ours["target_hash"]) == (its["prompt_hash"], its["target_hash"])
        assert (ours["acc"], ours["acc_norm"]) == (its["acc"], its["acc_norm"])
        assert [float(answer[0]) for answer in ours["filtered_resps"]] == pytest.approx(
            [float(answer[0]) for answer in its["filtered_resps"]], abs=1e-4
        )
