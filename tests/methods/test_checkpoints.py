"""Adapters on disk: our own files, PEFT's format with PEFT itself as the judge, the official T-Few checkpoint."""

import copy
import json
from dataclasses import replace

import peft
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file

from adaptbench.data.fewshot import draw
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.methods.checkpoints import load_adapter, load_tfew
from adaptbench.methods.hf_peft import HuggingFacePeft
from adaptbench.methods.ia3 import IA3
from adaptbench.methods.peft_format import export_peft, import_peft
from adaptbench.models.backbone import meta_backbone
from tests.conftest import ARCHITECTURES
from tests.factories import recipe, toy_task
from tests.methods.roster import VARIANTS


def randomised(adaptation):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in adaptation.delta.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return adaptation


def inputs_for(architecture, virtual_tokens=0):
    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    ours = torch.cat([-1 - torch.arange(virtual_tokens).expand(2, -1), ids], 1)
    more = {"decoder_input_ids": ids[:, :4]} if architecture == "t5" else {}
    return {"input_ids": ours, **more}, {"input_ids": ids, **more}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_stored_adapter_comes_back_without_loss(backbones, tmp_path, variant):
    backbone, method = backbones["t5"], VARIANTS[variant]
    adaptation = randomised(method.prepare(backbone, (1, 2)).for_inference())
    method.save(adaptation, tmp_path, 1)
    loaded, again = load_adapter(tmp_path, backbone)
    assert loaded == method
    state, expected = again.delta.state_of(0), adaptation.delta.state_of(1)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in state)
    ours, _ = inputs_for("t5", adaptation.backbone.virtual_tokens)
    with torch.no_grad():
        with again.attached():
            attached = backbone.model(**ours).logits
        with adaptation.serving(torch.tensor([1, 1])):
            served = backbone.model(**ours).logits
    assert torch.allclose(attached, served, atol=1e-5)


def test_a_stored_fish_mask_comes_back_without_loss(backbones, tmp_path):
    task, method = toy_task(), METHODS["fish_mask"](name="fish", keep=0.01, steps=2)
    adaptation = method.adapt(backbones["t5"], task, [draw(task, 1, 4)], recipe())
    method.save(adaptation, tmp_path, 0)
    _, again = load_adapter(tmp_path, backbones["t5"])
    state = adaptation.delta.state_of(0)
    assert all(torch.equal(value, state[name]) for name, value in again.delta.state_of(0).items())


EXPORTED = {
    "ia3": METHODS["ia3"](name="ia3"),
    "lora": METHODS["lora"](name="lora", rank=3, alpha=6.0),
    "lora_qv": METHODS["lora"](name="lora", rank=2, alpha=1.0, targets=["q", "v"]),
    "layernorm": METHODS["layernorm"](name="layernorm"),
    "prompt": METHODS["prompt"](name="prompt", virtual_tokens=3, decoder=False),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("exported", EXPORTED)
def test_peft_loads_what_we_export_and_we_import_it_back(backbones, tmp_path, architecture, exported):
    method = EXPORTED[exported]
    adaptation = randomised(method.prepare(backbones[architecture], (1, 2)))
    backbone = adaptation.backbone
    export_peft(method, adaptation, tmp_path, run=1)
    ours, theirs = inputs_for(architecture, backbone.virtual_tokens)
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), tmp_path).eval()
    with torch.no_grad():
        expected = loaded(**theirs).logits
        with adaptation.serving(torch.tensor([1, 1])):
            logits = backbone.model(**ours).logits
    assert (logits[:, -expected.shape[1] :] - expected[:, -logits.shape[1] :]).abs().max() < 1e-5
    again, imported = import_peft(tmp_path, backbones[architecture])
    assert again.kind == method.kind
    state = imported.delta.state_of(0)
    assert state.keys() == adaptation.delta.state_of(1).keys()
    assert all(torch.equal(value, state[name]) for name, value in adaptation.delta.state_of(1).items())


def test_an_adapter_trained_by_peft_is_imported(backbones, tmp_path):
    backbone = backbones["t5"]
    config = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q", "v"], init_lora_weights=False)
    wrapped = peft.get_peft_model(copy.deepcopy(backbone.model), config).eval()
    wrapped.save_pretrained(tmp_path)
    method, adaptation = import_peft(tmp_path, backbone)
    inputs, _ = inputs_for("t5")
    with torch.no_grad(), adaptation.attached():
        assert torch.allclose(backbone.model(**inputs).logits, wrapped(**inputs).logits, rtol=1e-5, atol=1e-5)
    assert method.targets == ["q", "v"]


@pytest.mark.parametrize("variant", ["adapter", "lora_tfew", "prompt"])
def test_what_peft_cannot_hold_is_refused_in_one_line(backbones, tmp_path, variant):
    method = VARIANTS[variant]
    with pytest.raises(InputError) as refused:
        export_peft(method, method.prepare(backbones["t5"], (1,)), tmp_path)
    assert "\n" not in str(refused.value)


def test_a_foreign_checkpoint_is_refused_in_one_line(backbones, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LOHA"}))
    with pytest.raises(InputError, match="LOHA"):
        import_peft(tmp_path, backbones["t5"])
    with pytest.raises(InputError, match="no stored adapter"):
        load_adapter(tmp_path, backbones["t5"])


def test_a_stored_t_few_adapter_does_not_need_the_vectors_it_started_from(backbones, tmp_path):
    start = tmp_path / "start"
    IA3().save(randomised(IA3().prepare(backbones["t5"], (0,))), start, 0)
    method = IA3(name="t_few", pretrained=str(start))
    method.save(method.prepare(backbones["t5"], (1,)), tmp_path / "kept", 0)
    vectors = load_file(start / "adapter.safetensors")
    (start / "adapter.safetensors").unlink()
    _, adaptation = load_adapter(tmp_path / "kept", backbones["t5"])
    assert all(torch.equal(value, vectors[name]) for name, value in adaptation.delta.state_of(0).items())


@pytest.mark.parametrize("pattern", ["rank_pattern", "alpha_pattern"])
def test_a_foreign_lora_of_several_sizes_is_refused(backbones, tmp_path, pattern):
    model = copy.deepcopy(backbones["llama"].model)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], **{pattern: {"v_proj": 4}})
    peft.get_peft_model(model, config).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=pattern):
        import_peft(tmp_path, backbones["llama"])


def test_the_official_checkpoint_fits_t0_3b_to_the_last_value(real_data):
    path = real_data / "checkpoints" / "t03b_ia3_finish.pt"
    if not path.is_file():
        pytest.skip(f"no official checkpoint at {path}")
    shape = OmegaConf.to_container(OmegaConf.load("conf/model/t0_3b.yaml").shape)
    delta = load_tfew(path, meta_backbone("t0_3b", "", shape=shape)).delta
    official = torch.load(path, weights_only=True)
    ours = delta.state_of(0)
    assert len(official) == len(ours) == 192
    assert sum(value.numel() for value in ours.values()) == 540_672
    for name, value in official.items():
        mine = name.replace("wi_1", "wo").replace("multi_lora_b", "vector")
        assert torch.equal(ours[mine][0], value[:, 0])


def test_the_official_checkpoint_is_refused_by_another_model(backbones, tmp_path):
    torch.save({"encoder.block.0.layer.0.SelfAttention.q.multi_lora_b": torch.ones(32, 1)}, tmp_path / "wrong.pt")
    with pytest.raises(InputError, match=r"SelfAttention\.q"):
        load_tfew(tmp_path / "wrong.pt", backbones["t5"])


TUNERS = [("LORA", {"r": 2}), ("VERA", {"r": 4}), ("PROMPT_TUNING", {"num_virtual_tokens": 3})]


@pytest.mark.parametrize(("kind", "arguments"), TUNERS)
@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_any_peft_tuner_runs_as_a_method(backbones, tmp_path, architecture, kind, arguments):
    method = HuggingFacePeft(name="peft", peft_type=kind, arguments=arguments, steps=3, learning_rate=0.1)
    task = toy_task()
    start = method.prepare(backbones[architecture], (1,))
    end = method.adapt(backbones[architecture], task, [draw(task, 1)], recipe(warmup_fraction=0.0))
    assert end.trainable == sum(parameter.numel() for parameter in start.parameters) > 0
    assert any(not torch.equal(a, b) for a, b in zip(start.parameters, end.parameters, strict=True))
    assert method.save(end, tmp_path, 0) == sum(file.stat().st_size for file in tmp_path.iterdir())
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(value.numel() for value in saved.values()) >= end.trainable


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "MAGIC"}, "method.peft_type='MAGIC'"),
        ({"arguments": {"rank": 3}}, "method.arguments"),
    ],
)
def test_a_wrong_peft_configuration_is_found_before_any_model(settings, said):
    with pytest.raises(InputError) as found:
        HuggingFacePeft(name="peft", **settings).check()
    assert said in str(found.value)
    assert "\n" not in str(found.value)


def test_a_tuner_that_does_not_fit_the_model_is_one_line(backbones):
    method = replace(HuggingFacePeft(name="peft"), arguments={"target_modules": ["nothing"]})
    with pytest.raises(InputError, match="PEFT cannot attach LORA"):
        method.prepare(backbones["t5"], (1,))


def test_a_missing_peft_package_is_one_line(monkeypatch):
    import adaptbench.methods.hf_peft as module

    def missing(_name):
        raise ImportError("No module named 'peft'")

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(InputError, match=r"adaptbench\[peft\]"):
        HuggingFacePeft(name="peft").check()
