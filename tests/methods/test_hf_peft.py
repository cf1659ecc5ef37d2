"""Every type of Hugging Face PEFT: scored as PEFT computes a row alone, whatever its batch, or refused in one line."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftType
from transformers import AutoModelForSeq2SeqLM, MarianConfig

from adaptbench.costs.flops import StepPrices
from adaptbench.costs.memory import train_memory
from adaptbench.costs.meta import MetaRun
from adaptbench.data.batching import Shape, collate, encode
from adaptbench.data.fewshot import draw
from adaptbench.data.templates import Prompt
from adaptbench.errors import InputError
from adaptbench.methods import peft_tuners
from adaptbench.methods.base import Adaptation
from adaptbench.methods.hf_peft import HuggingFacePeft
from adaptbench.models.backbone import load_backbone
from adaptbench.scoring.evaluate import evaluate
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.losses import per_run_loss
from tests.factories import recipe, toy_task

TYPES = [kind.value for kind in PeftType]
MODELS = ("gpt2", "llama", "t5")
ARGUMENTS = {
    "ADAMSS": {"r": 8, "num_subspaces": 2},
    "ADAPTION_PROMPT": {"adapter_len": 3, "adapter_layers": 2},
    "C3A": {"block_size": 4},
    "CARTRIDGE": {"num_virtual_tokens": 3},
    "CPT": {"cpt_token_ids": [4, 5, 6]},
    "FOURIERFT": {"n_frequency": 50},
    "MISS": {"r": 4},
    "MULTITASK_PROMPT_TUNING": {"num_virtual_tokens": 3, "num_tasks": 2},
    "PREFIX_TUNING": {"num_virtual_tokens": 3},
    "PROMPT_TUNING": {"num_virtual_tokens": 3},
    "PSOFT": {"r": 4},
    "P_TUNING": {"num_virtual_tokens": 3},
    "ROAD": {"group_size": 8},
    "SHADOW": {"shadow_dropout": 0.0, "auxiliary_loss_weight": 0},
    "SHIRA": {"r": 4},
    "TRAINABLE_TOKENS": {"token_indices": [3, 4, 5, 10, 20, 40]},
    "VBLORA": {"vector_length": 16, "num_vectors": 10},
    "WAVEFT": {"n_frequency": 50},
}
LINEAR_ONLY = {  # no counterpart for GPT-2's transposed weights
    *("BOFT", "C3A", "DELORA", "GLORA", "HRA", "LOHA", "LOKR", "MISS", "OFT", "PEANUT", "POLY", "PSOFT", "ROAD"),
    *("SHIRA", "SUPERTUNING"),
}
REFUSED = {
    **{(kind, "gpt2"): "Conv1D" for kind in LINEAR_ONLY},
    **{(kind, model): f"method.peft_type={kind!r}" for kind in ("ADALORA", "LILY", "XLORA") for model in MODELS},
    ("BEFT", "gpt2"): "Please specify `target_modules`",
    ("OSF", "gpt2"): "trains nothing on gpt2",
    ("ADAPTION_PROMPT", "t5"): "Unsupported model type",
    ("CPT", "t5"): "only supports task_type = CAUSAL_LM",
    ("MULTITASK_PROMPT_TUNING", "t5"): "leaves out what the decoder",
    ("SHADOW", "t5"): "Unable to automatically find",
}
if find_spec("sklearn") is None:
    REFUSED |= {("ADAMSS", model): "scikit-learn is required" for model in MODELS}
RANDOM = ("POLY", "PVERA")  # they draw numbers while they train
CELLS = [(kind, model) for kind in TYPES for model in MODELS]
RUN = [cell for cell in CELLS if cell not in REFUSED]
PROMPTS = [
    Prompt(f"row{n}", "plain", f"the food was {' '.join([word] * n)}", ("no", "yes it is good", "maybe"), label)
    for n, word, label in (
        (1, "bad", 0),
        (4, "good", 1),
        (7, "bad", 0),
        (10, "good", 1),
        (13, "bad", 0),
        (1, "good", 1),
    )
]

Prepared = Callable[[str, str], Adaptation]


def method(kind: str, **more: object) -> HuggingFacePeft:
    return HuggingFacePeft(name="peft", peft_type=kind, arguments={**ARGUMENTS.get(kind, {}), **more})


@pytest.fixture(scope="module")
def prepared(backbones) -> Prepared:
    """The tuner on the model, away from its start, where many tuners change nothing."""
    made: dict[tuple[str, str], Adaptation] = {}

    def get(kind, model):
        if (kind, model) not in made:
            made[kind, model] = adaptation = method(kind).prepare(backbones[model], (1,))
            torch.manual_seed(3)
            with torch.no_grad():
                for parameter in adaptation.parameters:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return made[kind, model]

    return get


@torch.no_grad()
def alone(backbone, model, task: bool = False) -> list[list[float]]:
    """Log-likelihoods by plain forward passes: one choice of one row at a time, no padding, no mask."""
    results = []
    for row in (encode(backbone, prompt) for prompt in PROMPTS):
        own = []
        for choice in row.choices:
            source, target = torch.tensor([row.source]), torch.tensor([choice])
            inputs = {"task_ids": torch.zeros(1, dtype=torch.long)} if task else {}
            if backbone.is_encoder_decoder:
                start = torch.full((1, 1), backbone.model.config.decoder_start_token_id)
                inputs |= {"input_ids": source, "decoder_input_ids": torch.cat([start, target[:, :-1]], 1)}
            else:
                inputs |= {"input_ids": torch.cat([source, target[:, :-1]], 1)}
            log_p = model(**inputs).logits[:, -target.shape[1] :].log_softmax(-1)
            own.append(log_p.gather(2, target[..., None]).sum().item())
        results.append(own)
    return results


def scores(adaptation: Adaptation, batch_size: int) -> torch.Tensor:
    """(N, C)"""
    (found,) = evaluate(adaptation, PROMPTS, batch_size)
    return torch.tensor([score.log_likelihoods for score in found])


@pytest.mark.parametrize(("kind", "model"), RUN)
def test_scores_are_those_of_a_row_alone_in_peft_whatever_its_batch(backbones, prepared, kind, model):
    adaptation = prepared(kind, model)
    expected = torch.tensor(alone(adaptation.backbone, adaptation.backbone.model))
    for batch_size in (1, 4, 8):
        assert (scores(adaptation, batch_size) - expected).abs().max() < 1e-4
    assert (torch.tensor(alone(backbones[model], backbones[model].model)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "model"), REFUSED)
def test_a_type_that_cannot_be_had_is_refused_in_one_line(backbones, kind, model):
    with pytest.raises(InputError) as refused:
        method(kind).prepare(backbones[model], (1,))
    assert REFUSED[kind, model] in str(refused.value)
    assert "\n" not in str(refused.value)


def gradients(adaptation: Adaptation, rows) -> list[torch.Tensor]:
    """Of the sum over rows of a row's loss."""
    backbone = adaptation.backbone
    batch = collate(rows, backbone.pad_id)
    backbone.model.train()
    log_p = token_log_probabilities(backbone, batch)
    names = ["lm", "unlikelihood", "length_normalized"]
    loss = per_run_loss(names, log_p, batch.target_mask, batch.label, 1)[0] * len(rows)
    found = torch.autograd.grad(loss, adaptation.parameters, allow_unused=True)
    backbone.model.eval()
    zeros = map(torch.zeros_like, adaptation.parameters)
    return [zero if one is None else one for one, zero in zip(found, zeros, strict=True)]


@pytest.mark.parametrize(("kind", "model"), [cell for cell in RUN if cell[0] not in RANDOM])
def test_a_rows_gradient_does_not_depend_on_the_rows_beside_it(prepared, kind, model):
    adaptation = prepared(kind, model)
    rows = [encode(adaptation.backbone, prompt) for prompt in PROMPTS[:4]]
    together = gradients(adaptation, rows)
    each = [gradients(adaptation, [row]) for row in rows]
    scale = max(one.abs().max() for one in together)
    assert scale > 0
    for index, one in enumerate(together):
        assert (one - sum(own[index] for own in each)).abs().max() < 1e-4 * max(scale, 1)


@pytest.mark.parametrize(("kind", "model"), [cell for cell in RUN if cell[1] != "gpt2"])
def test_what_is_stored_computes_the_same_in_peft(backbones, prepared, tmp_path, kind, model):
    adaptation = prepared(kind, model)
    method(kind).save(adaptation, tmp_path, 0)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(backbones[model].model), tmp_path).eval()
    expected = torch.tensor(alone(backbones[model], again, task=kind in peft_tuners.NEED_TASK))
    assert (scores(adaptation, 8) - expected).abs().max() < 1e-4


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "PREFIX_TUNING", "VBLORA", "OFT", "ADAPTION_PROMPT"])
def test_training_does_not_depend_on_how_rows_are_laid_out_in_passes(backbones, kind):
    """Passes of one row each and a pass of all follow the same path."""
    task, ends = toy_task(), []
    for limit in (1, 10**9):  # bytes of logits in a pass
        backbone = replace(backbones["llama"], logits_limit=limit)
        trained = replace(method(kind), steps=3, learning_rate=0.01)
        adaptation = trained.adapt(backbone, task, [draw(task, 1)], recipe(optimizer="adamw", warmup_fraction=0.0))
        ends.append(scores(adaptation, 8))
    assert (ends[0] - ends[1]).abs().max() < 1e-4


@pytest.mark.parametrize(("kind", "model"), RUN)
def test_every_type_that_runs_has_a_bill(backbones, kind, model):
    run = MetaRun.of(method(kind), backbones[model], recipe())
    assert run.adaptation.trainable > 0
    prices, shape = StepPrices(run), Shape(2, 6, 3, 3)
    assert prices.train(shape) > prices.predict(shape) > 0
    assert train_memory(run, shape).gradients > 0


@pytest.mark.parametrize("kind", ["LORA", "PROMPT_TUNING"])
@pytest.mark.parametrize("model", MODELS)
def test_counting_on_the_real_model_equals_counting_without_storage(backbones, kind, model):
    shape = Shape(2, 9, 3, 4)
    counts = []
    for run in (
        MetaRun.of(method(kind), backbones[model], recipe()),
        MetaRun(method(kind).prepare(backbones[model], (0,)), recipe()),
    ):
        prices = StepPrices(run)
        counts.append((prices.train(shape), prices.predict(shape), train_memory(run, shape)))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("kind", sorted(peft_tuners.READ_VALUES))
def test_a_type_that_computes_with_values_has_no_price_without_weights(backbones, kind):
    with pytest.raises(InputError, match="only with the model's weights"):
        method(kind).prepare(backbones["llama"].on_meta(), (0,))


ARGUMENTS_REFUSED = [
    ("LORA", {"task_type": "SEQ_CLS"}, "method.arguments.task_type='SEQ_CLS': leave it out"),
    ("LORA", {"inference_mode": True}, "method.arguments.inference_mode=True: leave it out"),
    ("LORA", {"init_lora_weights": "eva", "eva_config": {}}, "init_lora_weights='eva'"),
    ("LORA", {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}, "init_lora_weights='loftq'"),
    ("LORA", {"init_lora_weights": "lora_ga"}, "init_lora_weights='lora_ga'"),
    ("LORA", {"monteclora_config": {}}, "monteclora_config="),
    ("LORA", {"kasa_config": {"beta": 1.0}}, "kasa_config="),
    ("LORA", {"velora_config": {"num_groups": 4}}, "velora_config="),
    ("LORA", {"alora_invocation_tokens": [5]}, "alora_invocation_tokens=[5]"),
    ("CPT", {"opt_weighted_loss_type": "decay", "opt_loss_decay_factor": 0.9}, "opt_weighted_loss_type='decay'"),
    ("PVERA", {"sample_at_inference": True}, "sample_at_inference=True"),
    ("SHADOW", {"auxiliary_loss_weight": 0.05}, "auxiliary_loss_weight=0.05"),
]


@pytest.mark.parametrize(("kind", "arguments", "said"), ARGUMENTS_REFUSED)
def test_an_argument_that_would_be_half_obeyed_is_refused_before_any_model(kind, arguments, said):
    with pytest.raises(InputError) as refused:
        method(kind, **arguments).check()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tuner_that_nobody_knows_is_tried(backbones, monkeypatch):
    """LILY routes by a mean over the batch, and this PVERA draws numbers: the trial finds out."""
    monkeypatch.setattr(peft_tuners, "_REFUSED", {})
    monkeypatch.setattr(peft_tuners, "_REFUSED_VALUES", ())
    for tuner in (method("LILY"), method("PVERA", sample_at_inference=True)):
        with pytest.raises(InputError, match="depend on the rows and choices beside it"):
            tuner.prepare(backbones["llama"], (1,))


def test_the_trial_leaves_no_trace(backbones):
    torch.manual_seed(1)
    expected = peft.get_peft_model(
        copy.deepcopy(backbones["llama"].model), peft.LoraConfig(task_type="CAUSAL_LM")
    ).state_dict()
    before = torch.get_rng_state()
    found = method("LORA").prepare(backbones["llama"], (1,)).backbone.model.state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_a_prompt_before_words_that_the_model_multiplies_is_refused(model_folders, tmp_path):
    """Marian multiplies the embeddings it looks up, and PEFT looks them up itself."""
    shutil.copytree(model_folders["t5"], tmp_path, dirs_exist_ok=True)
    config = MarianConfig(
        vocab_size=400, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, pad_token_id=0,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, scale_embedding=True,
        decoder_start_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForSeq2SeqLM.from_config(config).save_pretrained(tmp_path)
    backbone = load_backbone.__wrapped__("marian", str(tmp_path))
    with pytest.raises(InputError, match="does more with a token than look it up"):
        method("PROMPT_TUNING").prepare(backbone, (1,))
    method("PREFIX_TUNING").prepare(backbone, (1,))


def test_virtual_tokens_take_positions(backbones):
    """What fits without them may not fit with them: known when a row is read, not by a crash in the model."""
    backbone = backbones["gpt2"]
    row = encode(backbone, PROMPTS[4])
    needed = len(row.source) + max(map(len, row.choices))
    encode(replace(backbone, max_length=needed), PROMPTS[4])
    adapted = method("PROMPT_TUNING").prepare(replace(backbone, max_length=needed), (1,)).backbone
    with pytest.raises(InputError, match=f"do not fit model.max_length={needed - 3}"):
        encode(adapted, PROMPTS[4])


HALF = ("ADAPTION_PROMPT", "LN_TUNING", "LORA", "PROMPT_TUNING", "P_TUNING", "IA3", "OFT", "TRAINABLE_TOKENS")


@pytest.mark.parametrize("kind", HALF)
def test_on_a_half_precision_model_training_is_in_single_precision(model_folders, kind):
    """PEFT's parameters are float32, or the optimizer's masters are: steps of 1e-4 are not rounded away."""
    task, folder = toy_task(), model_folders["llama"]
    moved = {}
    for dtype in ("float32", "bfloat16"):
        backbone = load_backbone.__wrapped__("llama", str(folder), dtype)
        trained = replace(method(kind), steps=30, learning_rate=1e-4, scale_parameter=False)
        start = trained.prepare(backbone, (1,))
        end = trained.adapt(backbone, task, [draw(task, 1)], recipe(warmup_fraction=0.0))
        pairs = zip(start.parameters, end.parameters, strict=True)
        moved[dtype] = sum((a.float() - b.float()).square().sum() for a, b in pairs).sqrt().item()
        if dtype == "bfloat16" and kind not in ("ADAPTION_PROMPT", "LN_TUNING"):
            assert {parameter.dtype for parameter in end.parameters} == {torch.float32}
    assert moved["bfloat16"] == pytest.approx(moved["float32"], rel=0.25)


def test_the_stored_files_are_pefts_own(prepared, tmp_path: Path):
    size = method("PROMPT_TUNING").save(prepared("PROMPT_TUNING", "gpt2"), tmp_path, 0)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert size == sum(file.stat().st_size for file in tmp_path.iterdir())
