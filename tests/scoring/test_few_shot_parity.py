"""In-context learning with 25 demonstrations gives the log-likelihoods of lm-evaluation-harness 0.4.13.

Demonstrations, prompt and answer are one text there and here: where one tokenizer reads "no" and two line ends as one
token and another does not, both must do the same.
"""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from adaptbench.data.example import Example, TaskData
from adaptbench.data.fewshot import FewShotSet
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.data.templates import Template
from adaptbench.methods.icl import InContextLearning
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.models.backbone import load_backbone
from adaptbench.scoring.evaluate import evaluate
from tests.factories import recipe
from tests.scoring.tokenizers import KINDS

SHOTS = 25
CHOICES = ("no", "yes it is", "maybe", "sat on the mat")
SUBJECTS = ("the cat", "a dog", "the large red house", "it", "café")


def rows(count: int, first: int) -> list[dict]:
    found = []
    for row in range(first, first + count):
        subject, choices = SUBJECTS[row % 5], list(CHOICES[: 2 + row % 3])
        text = f"premise {row}: {subject} ran. question: what did it do?"
        found.append({"input": text, "choices": choices, "label": row * 7 % len(choices)})
    return found


TRAIN, TEST = rows(SHOTS, 0), rows(12, 100)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for kind, build in KINDS.items():
        folder, tokenizer = tmp_path_factory.mktemp(kind), build()
        tokenizer.save_pretrained(folder)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2, pad_token_id=0,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, initializer_range=0.2,
        )  # fmt: skip
        LlamaForCausalLM(config).save_pretrained(folder)
        made[kind] = folder
    return made


def harness(folder: Path, kind: str, shots: int) -> list[list[float]]:
    """Its log-likelihoods, one row an item; where it is not installed, what it answered when it was.

    `harness/few_shot.json` holds that answer: an entry is written anew by deleting it and running this test beside the
    package, and checked against the package wherever both are there.
    """
    kept = Path(__file__).parent / "harness" / "few_shot.json"
    known = json.loads(kept.read_text()) if kept.is_file() else {}
    name = f"{kind}, {shots} shots"
    if find_spec("lm_eval") is None or find_spec("datasets") is None:
        return known[name]
    found = asked(folder, shots)
    if name not in known:
        kept.write_text(json.dumps({**known, name: found}, indent=1) + "\n")
    else:
        assert [value for values in known[name] for value in values] == pytest.approx(
            [value for values in found for value in values], abs=1e-4
        )
    return found


def asked(folder: Path, shots: int) -> list[list[float]]:
    """Through its own task machinery, the first rows of the training split as demonstrations."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.evaluator import evaluate as their_evaluate
    from lm_eval.models.huggingface import HFLM

    splits = {"train": datasets.Dataset.from_list(TRAIN), "test": datasets.Dataset.from_list(TEST)}
    task = ConfigurableTask(
        config={
            "task": "toy",
            "custom_dataset": lambda **_: splits,
            "test_split": "test",
            "fewshot_split": "train",
            "fewshot_config": {"sampler": "first_n"},
            "num_fewshot": shots,
            "output_type": "multiple_choice",
            "doc_to_text": "{{input}}",
            "doc_to_choice": "choices",
            "doc_to_target": "label",
            "metric_list": [{"metric": "acc"}],
        }
    )
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    language_model = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=4, device="cpu")
    results = their_evaluate(lm=language_model, task_dict={"toy": task}, bootstrap_iters=1, log_samples=True)
    samples = sorted(results["samples"]["toy"], key=lambda sample: sample["doc_id"])
    return [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]


def task() -> TaskData:
    train, test = (
        [Example(f"{name}{i}", fields) for i, fields in enumerate(split)] for name, split in (("a", TRAIN), ("b", TEST))
    )
    template = Template("toy", "plain", "{{input}} ||| {{answer_choices[label]}}", "{{choices | join(' ||| ')}}")
    return TaskData("toy", SHOTS, train, test, [template])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cached", [False, True])
def test_25_shots_score_as_in_lm_evaluation_harness(folders, kind, cached):
    toy = task()
    backbone = load_backbone.__wrapped__(kind, str(folders[kind]))
    method = InContextLearning(name="icl", cached=cached)
    adaptation = method.adapt(backbone, toy, [FewShotSet(0, tuple(toy.train))], recipe(), "plain")
    assert adaptation.contexts[0].demonstrations == SHOTS
    (scores,) = evaluate(adaptation, evaluation_prompts(toy, "plain"), batch_size=5)
    theirs = harness(folders[kind], kind, SHOTS)
    for score, expected in zip(scores, theirs, strict=True):
        assert list(score.log_likelihoods) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_no_shots_score_as_in_lm_evaluation_harness(folders, kind):
    toy = task()
    adaptation = ZeroShot().prepare(load_backbone.__wrapped__(kind, str(folders[kind])), [0])
    (scores,) = evaluate(adaptation, evaluation_prompts(toy, "plain"), batch_size=5)
    for score, expected in zip(scores, harness(folders[kind], kind, 0), strict=True):
        assert list(score.log_likelihoods) == pytest.approx(expected, abs=1e-4)


def test_the_joined_text_has_tokens_that_its_parts_have_not():
    """Or these tests would say nothing: apart, "no" and what follows it are read otherwise."""
    tokenizer = KINDS["byte_level"]()
    whole, parts = tokenizer("? no\n\nyes")["input_ids"], [tokenizer(p)["input_ids"] for p in ("? no", "\n\n", "yes")]
    assert whole != [token for part in parts for token in part]
