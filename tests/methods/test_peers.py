"""The same weights in Hugging Face PEFT: equal logits and gradients. And a defect of its that does not occur here."""

import copy

import peft
import pytest
import torch

from adaptbench.methods.ia3 import IA3
from adaptbench.methods.layernorm import LayerNorm
from adaptbench.methods.lora import LoRA
from adaptbench.methods.prefix import Prefix
from adaptbench.models.anatomy import anatomy_of
from adaptbench.models.attention import IMPLEMENTATION
from tests.conftest import tiny_model

KEYS = {"t5": ["k", "v"], "llama": ["k_proj", "v_proj"], "opt": ["k_proj", "v_proj"]}
INNER = {"t5": ["wo"], "llama": ["down_proj"], "opt": ["fc2"]}
NORMS = {
    "t5": ["layer_norm", "final_layer_norm"],
    "llama": ["input_layernorm", "post_attention_layernorm", "norm"],
    "opt": ["self_attn_layer_norm", "final_layer_norm"],
}


def frozen(architecture):
    model = tiny_model(architecture, 300).eval().requires_grad_(False)
    model.set_attn_implementation(IMPLEMENTATION)
    return model


def inputs_for(architecture):
    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    return {"input_ids": ids, **({"decoder_input_ids": ids[:, :4]} if architecture == "t5" else {})}


def randomised(delta):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in delta.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return delta


def counterpart(delta, kind, name):
    """Our parameter of a PEFT name, and how PEFT's shape becomes ours."""
    path = name.removeprefix("base_model.model.")
    if kind == "ia3":
        return delta.pieces[path.partition(".ia3_l")[0].replace(".", "/")].vector, lambda value: value.reshape(1, -1)
    if kind == "lora":
        piece = delta.pieces[path.partition(".lora_")[0].replace(".", "/")]
        return (piece.a if ".lora_A." in name else piece.b), lambda value: value.T
    piece = delta.pieces[path.partition(".ln_tuning_layers")[0].replace(".", "/")]
    return (piece.weight if name.endswith("weight") else piece.bias), lambda value: value[None]


@pytest.mark.parametrize("architecture", KEYS)
@pytest.mark.parametrize("kind", ["ia3", "lora", "layernorm"])
def test_logits_and_gradients_agree_with_hugging_face_peft(architecture, kind):
    model, inputs = frozen(architecture), inputs_for(architecture)
    keys, inner = KEYS[architecture], INNER[architecture]
    if kind == "ia3":
        method, config = IA3(), peft.IA3Config(target_modules=keys + inner, feedforward_modules=inner)
    elif kind == "lora":
        method = LoRA(rank=3, alpha=6.0, targets=["k", "v", "ff_out"])
        config = peft.LoraConfig(target_modules=keys + inner, r=3, lora_alpha=6, lora_dropout=0.0)
    else:
        method, config = LayerNorm(), peft.LNTuningConfig(target_modules=NORMS[architecture])
    delta = randomised(method.delta(anatomy_of(model), 1).initialise([1], model))
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    trained = {name: parameter for name, parameter in theirs.named_parameters() if parameter.requires_grad}
    assert len(trained) == len(list(delta.parameters()))
    with torch.no_grad():
        for name, parameter in trained.items():
            ours, shaped = counterpart(delta, kind, name)
            shaped(parameter).copy_(ours[0])
    expected = theirs(**inputs).logits
    expected.square().mean().backward()
    with delta.attached(model):
        logits = model(**inputs).logits
        logits.square().mean().backward()
    assert (logits - expected).abs().max() < 2e-6 * expected.abs().max().clamp(min=5)
    for name, parameter in trained.items():
        ours, shaped = counterpart(delta, kind, name)
        assert (ours.grad[0] - shaped(parameter.grad)).abs().max() < 1e-5, name


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_decoder_prefixes_agree_with_hugging_face_peft(architecture):
    """Absolute positions: PEFT's prefix takes positions 0 to P - 1, so ours are given the same shifted ones."""
    tokens, model = 3, frozen(architecture)
    ids = inputs_for(architecture)["input_ids"]
    delta = randomised(Prefix(virtual_tokens=tokens).delta(anatomy_of(model), 1))
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=tokens)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    (weights,) = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    states = [state for piece in delta.pieces.values() for state in (piece.key, piece.value)]
    with torch.no_grad():  # (P, layers * 2 * H * W)
        weights.copy_(torch.cat([state[0].transpose(0, 1).flatten(1) for state in states], 1))
    expected = theirs(input_ids=ids).logits
    expected.square().mean().backward()
    with delta.attached(model):
        logits = model(input_ids=ids, position_ids=torch.arange(tokens, tokens + ids.shape[1])[None]).logits
        logits.square().mean().backward()
    assert (logits - expected).abs().max() < 2e-6 * expected.abs().max().clamp(min=5)
    ours = torch.cat([state.grad[0].transpose(0, 1).flatten(1) for state in states], 1)
    assert (ours - weights.grad).abs().max() < 1e-5


def test_peft_drops_half_of_a_t5_prefix_and_we_do_not():
    """PEFT 0.21 on T5: half of the prefix never gets a gradient, and the encoder has none. If the first part of this
    test fails one day, PEFT has been mended."""
    model, inputs = frozen("t5"), inputs_for("t5")
    config = peft.PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    theirs = peft.get_peft_model(copy.deepcopy(model), config).eval()
    (weights,) = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    torch.nn.init.normal_(weights)
    theirs(**inputs).logits.square().mean().backward()
    assert (weights.grad == 0).float().mean() == 0.5

    delta = randomised(Prefix(virtual_tokens=3).delta(anatomy_of(model), 1))
    with delta.attached(model):
        model(**inputs).logits.square().mean().backward()
    kinds = {site.path.replace(".", "/"): site.kind for site in anatomy_of(model).attentions}
    assert set(kinds.values()) == {"encoder", "decoder", "cross"}
    for name in kinds:
        piece = delta.pieces[name]
        assert (piece.key.grad != 0).all()
        assert (piece.value.grad != 0).all()
    keys = [delta.pieces[name].key for name in kinds]
    assert not any(torch.equal(key, other) for i, key in enumerate(keys) for other in keys[:i])
