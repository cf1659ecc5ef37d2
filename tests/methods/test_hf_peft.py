"""Every type of Hugging Face PEFT: scored as PEFT computes a row alone, whatever its batch, or refused in one line."""

import copy
import shutil
from dataclasses import replace

import peft
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, MarianConfig

from adaptbench.data.batching import encode
from adaptbench.errors import InputError
from adaptbench.methods import peft_tuners
from adaptbench.models.backbone import load_backbone
from tests.methods.peft_types import PROMPTS, REFUSED, RUN, SOME, method, prepared, scores


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


@pytest.mark.parametrize(("kind", "model"), RUN)
def test_scores_are_those_of_a_row_alone_in_peft_whatever_its_batch(backbones, kind, model):
    adaptation = prepared(kind, backbones[model])
    expected = torch.tensor(alone(adaptation.backbone, adaptation.backbone.model))
    for batch_size in (1, 8):
        assert (scores(adaptation, batch_size) - expected).abs().max() < 1e-4
    assert (torch.tensor(alone(backbones[model], backbones[model].model)) - expected).abs().max() > 1e-3


@pytest.mark.parametrize(("kind", "model"), sorted(REFUSED))
def test_a_type_that_cannot_be_had_is_refused_in_one_line(backbones, kind, model):
    with pytest.raises(InputError) as refused:
        method(kind).prepare(backbones[model], (1,))
    assert REFUSED[kind, model] in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("kind", "model"), SOME)
def test_what_is_stored_computes_the_same_in_peft(backbones, tmp_path, kind, model):
    adaptation = prepared(kind, backbones[model])
    method(kind).save(adaptation, tmp_path, 0)
    again = peft.PeftModel.from_pretrained(copy.deepcopy(backbones[model].model), tmp_path).eval()
    expected = torch.tensor(alone(backbones[model], again, task=kind in peft_tuners.NEED_TASK))
    assert (scores(adaptation, 8) - expected).abs().max() < 1e-4


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
    ("PVERA", {"sample_at_inference": True}, "sample_at_inference=True"),
    ("SHADOW", {"shadow_model": "a/model"}, "shadow_model='a/model'"),
    (
        "MULTITASK_PROMPT_TUNING",
        {"prompt_tuning_init": "EXACT_SOURCE_TASK", "prompt_tuning_init_state_dict_path": "a.bin"},
        "prompt_tuning_init_state_dict_path='a.bin'",
    ),
    ("SHADOW", {"auxiliary_loss_weight": 0.05}, "auxiliary_loss_weight=0.05"),
]


@pytest.mark.parametrize(("kind", "arguments", "said"), ARGUMENTS_REFUSED)
def test_an_argument_that_would_be_half_obeyed_is_refused_before_any_model(kind, arguments, said):
    with pytest.raises(InputError) as refused:
        method(kind, **arguments).check()
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_tuner_that_nobody_knows_is_tried(backbones, monkeypatch):
    """LILY routes by a mean over the batch, and this PVERA draws numbers; CPT makes parameters anew in every pass."""
    monkeypatch.setattr(peft_tuners, "_REFUSED", {})
    monkeypatch.setattr(peft_tuners, "_REFUSED_VALUES", ())
    for tuner in (method("LILY"), method("PVERA", sample_at_inference=True)):
        with pytest.raises(InputError, match="depend on the rows and choices beside it"):
            tuner.prepare(backbones["llama"], (1,))
    with pytest.raises(InputError, match="replaces its parameters"):
        method("CPT", cpt_token_ids=[4, 5, 6]).prepare(backbones["llama"], (1,))


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


def test_the_stored_files_are_pefts_own(backbones, tmp_path):
    size = method("PROMPT_TUNING").save(prepared("PROMPT_TUNING", backbones["gpt2"]), tmp_path, 0)
    assert {file.name for file in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}
    assert size == sum(file.stat().st_size for file in tmp_path.iterdir())
