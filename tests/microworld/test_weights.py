"""The shipped base models are what their provenance says, fit this code's vocabulary, and can do something."""

import hashlib
import json
import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

import adaptbench.microworld
from adaptbench.microworld import corpus, prompted, tasks, tokenizer
from adaptbench.microworld.world import build
from tests.microworld.test_tasks import render

WEIGHTS = Path(adaptbench.microworld.__file__).parent / "weights"
AUTO = {
    "micro_t5_lm": AutoModelForSeq2SeqLM,
    "micro_t0": AutoModelForSeq2SeqLM,
    "micro_gpt_s": AutoModelForCausalLM,
    "micro_gpt_m": AutoModelForCausalLM,
    "micro_gpt_l": AutoModelForCausalLM,
}


@pytest.fixture(params=AUTO)
def name(request):
    return request.param


def test_weights_match_their_provenance(name):
    provenance = json.loads((WEIGHTS / name / "provenance.json").read_text())
    file = WEIGHTS / name / "model.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == provenance["sha256"]
    assert file.stat().st_size < 6_000_000
    model = AUTO[name].from_pretrained(WEIGHTS / name)
    assert sum(p.numel() for p in model.parameters()) == provenance["parameters"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_shipped_vectors_match_their_provenance():
    provenance = json.loads((WEIGHTS / "micro_t0_ia3" / "provenance.json").read_text())
    file = WEIGHTS / "micro_t0_ia3" / "adapter.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == provenance["sha256"]


def test_the_shipped_tokenizer_is_this_codes_tokenizer(name):
    assert AutoTokenizer.from_pretrained(WEIGHTS / name).get_vocab() == tokenizer.vocabulary()


def test_micro_t0_answers_the_prompts_it_was_trained_on():
    model, tok = AUTO["micro_t0"].from_pretrained(WEIGHTS / "micro_t0"), tokenizer.build_tokenizer(decoder_only=False)
    rng, right = random.Random("answers"), 0
    for task in (prompted.ask, prompted.review, prompted.topic):
        pairs = [task(build(), rng) for _ in range(64)]
        batch = tok([question for question, _ in pairs], return_tensors="pt", padding=True)
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            answers = model.generate(**batch, max_new_tokens=4, do_sample=False)
        read = tok.batch_decode(answers, skip_special_tokens=True)
        right += sum(a == answer for a, (_, answer) in zip(read, pairs, strict=True))
    assert right / 192 > 0.8


def test_all_weights_together_stay_small():
    assert sum(file.stat().st_size for file in WEIGHTS.glob("*/*.safetensors")) < 25_000_000


def test_the_large_micro_gpt_learns_a_development_task_from_its_context():
    """Sentiment with words that never labelled a class before, and adjectives that are not among the demonstrations."""
    model, tok = (
        AUTO["micro_gpt_l"].from_pretrained(WEIGHTS / "micro_gpt_l"),
        tokenizer.build_tokenizer(decoder_only=True),
    )
    task = tasks.load("micro_dev_mood")
    template = task.templates[0]
    demonstrations = random.Random(0).sample(task.train, 16)
    lines = [
        f"{prompt} {choices[row['label']]}" for row in demonstrations for prompt, choices in [render(template, row)]
    ]
    rows = task.evaluation[:64]
    prompts = ["\n".join([*lines, render(template, row)[0]]) for row in rows]
    choices = [tok(f" {c}", add_special_tokens=False).input_ids[0] for c in render(template, rows[0])[1]]
    ids = [tok(prompt).input_ids for prompt in prompts]
    last = torch.tensor([len(i) - 1 for i in ids])
    with torch.no_grad():
        logits = model(input_ids=corpus.padded(ids, tokenizer.PAD)).logits[torch.arange(len(ids)), last]
    predicted = logits[:, choices].argmax(1)
    right = (predicted == torch.tensor([row["label"] for row in rows])).float().mean().item()
    assert right > 0.65
