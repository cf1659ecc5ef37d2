"""Each method's computation against its formula, and against Hugging Face PEFT with the same weights."""

import copy

import peft
import pytest
import torch
from torch import nn

from adaptbench.data.batching import collate, encode
from adaptbench.methods.adapter import Adapter, Bottleneck
from adaptbench.methods.bitfit import BitFit, Shift
from adaptbench.methods.ia3 import IA3, Scale
from adaptbench.methods.lora import LoRA, LowRank
from adaptbench.methods.prefix import Prefix, PrefixStates
from adaptbench.models.anatomy import anatomy_of
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.training.stream import evaluation_prompts
from tests.conftest import ARCHITECTURES, tiny_model
from tests.factories import toy_task


def randomised(delta, scale=0.3):
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in delta.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)
    return delta


def test_pieces_compute_their_formulas_run_by_run():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    scale, shift = Scale(2, 6).double(), Shift(2, 6).double()
    low = LowRank(2, 6, 4, rank=3, scaling=0.5, init_scale=1.0).double()
    neck = Bottleneck(2, 6, 3, init_scale=1.0).double()
    for piece in (scale, shift, low, neck):
        randomised(piece, 1.0)
    for r in range(2):
        assert torch.allclose(scale(x)[r], x[r] * scale.vector[r], atol=1e-12)
        assert torch.allclose(shift(x)[r], x[r] + shift.bias[r], atol=1e-12)
        assert torch.allclose(low(x)[r], 0.5 * x[r] @ low.a[r] @ low.b[r], atol=1e-12)
        inner = torch.relu(x[r] @ neck.down[r] + neck.down_bias[r])
        assert torch.allclose(neck(x)[r], x[r] + inner @ neck.up[r] + neck.up_bias[r], atol=1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_prefix_equals_attention_over_concatenated_keys_and_values(backbones, architecture, monkeypatch):
    """The whole model, with every attention replaced by a plain softmax over [prefix; keys]."""
    backbone = backbones[architecture]
    delta = randomised(Prefix(virtual_tokens=3).build(backbone.anatomy, 1))
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(4), "random")]
    batch = collate(rows, backbone.pad_id)
    prefixes = {backbone.model.get_submodule(path.replace("/", ".")): piece for path, piece in delta.pieces.items()}

    def plain(module, query, key, value, mask, position_bias=None, scaling=None, **_):
        piece: PrefixStates = prefixes[module]
        groups = query.shape[1] // key.shape[1]
        key = torch.cat([piece.key[0].expand(len(key), -1, -1, -1), key], 2).repeat_interleave(groups, 1)
        value = torch.cat([piece.value[0].expand(len(value), -1, -1, -1), value], 2).repeat_interleave(groups, 1)
        scores = query @ key.transpose(2, 3) * scaling
        if position_bias is not None:
            scores[..., 3:] += position_bias
        scores[..., 3:] = scores[..., 3:].masked_fill(~mask, -torch.inf)
        return (scores.softmax(-1) @ value).transpose(1, 2), None

    with torch.inference_mode():
        with delta.attached(backbone.model):
            ours = token_log_probabilities(backbone, batch)
        without = token_log_probabilities(backbone, batch)
        from transformers import AttentionInterface

        monkeypatch.setitem(AttentionInterface._global_mapping, "adaptbench", plain)
        theirs = token_log_probabilities(backbone, batch)
    assert (ours - theirs).abs().max() < 2e-5
    assert (ours - without).abs().max() > 1e-3


def peft_logits(model, config, weights, inputs):
    """Logits and gradients of a PEFT model whose adapter weights are set by `weights(name, parameter)`."""
    wrapped = peft.get_peft_model(copy.deepcopy(model), config).eval()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(weights(name))
    logits = wrapped(**inputs).logits
    logits.square().mean().backward()
    return logits, {name: p.grad for name, p in wrapped.named_parameters() if p.requires_grad}


TARGETS = {
    "t5": (["k", "v", "wo"], ["wo"]),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "opt": (["k_proj", "v_proj", "fc2"], ["fc2"]),
}


@pytest.mark.parametrize("architecture", TARGETS)
@pytest.mark.parametrize("kind", ["ia3", "lora"])
def test_logits_and_gradients_agree_with_hugging_face_peft(architecture, kind):
    model = tiny_model(architecture, 600).eval().requires_grad_(False)
    ids = torch.randint(3, 600, (2, 9), generator=torch.Generator().manual_seed(1))
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids[:, :4]} if architecture == "t5" else {})}
    modules, feed_forward = TARGETS[architecture]
    if kind == "ia3":
        method = IA3()
        config = peft.IA3Config(target_modules=modules, feedforward_modules=feed_forward)
    else:
        method = LoRA(rank=3, alpha=6.0, targets=["k", "v", "ff_out"])
        config = peft.LoraConfig(target_modules=modules, r=3, lora_alpha=6, lora_dropout=0.0)
    delta = randomised(method.build(anatomy_of(model), 1), 0.1)

    def ours_for(name: str) -> tuple[nn.Parameter, bool]:
        """Our parameter of a PEFT name, and whether PEFT keeps it transposed."""
        path = name.removeprefix("base_model.model.").partition(".ia3_l" if kind == "ia3" else ".lora_")[0]
        piece = delta.pieces[path.replace(".", "/")]
        if kind == "ia3":
            return piece.vector, False
        return (piece.a if ".lora_A." in name else piece.b), True

    def weights(name: str) -> torch.Tensor:
        parameter, transposed = ours_for(name)
        value = parameter[0].T if transposed else parameter[0]
        return value.reshape(value.shape[1], 1) if kind == "ia3" and name_is_column(name) else value

    def name_is_column(name: str) -> bool:
        return not any(part in name for part in feed_forward)

    theirs, gradients = peft_logits(model, config, weights, inputs)
    with delta.attached(model):
        ours = model(**inputs).logits
        ours.square().mean().backward()
    assert (ours - theirs).abs().max() < 1e-5
    assert len(gradients) == len(list(delta.parameters()))
    for name, gradient in gradients.items():
        parameter, transposed = ours_for(name)
        expected = gradient.T if transposed else gradient.reshape(1, -1)
        assert (parameter.grad[0] - expected).abs().max() < 1e-5, name


def test_a_fused_projection_is_scaled_in_slices():
    """GPT-2's query-key-value is one map: (IA)^3 must leave the queries alone."""
    model = tiny_model("gpt2", 600).eval().requires_grad_(False)
    delta = randomised(IA3().build(anatomy_of(model), 1))
    x = torch.randn(2, 5, 32)
    module = model.transformer.h[0].attn.c_attn
    plain = module(x)
    with delta.attached(model):
        scaled = module(x)
    key = delta.pieces["transformer/h/0/attn/c_attn/k"].vector[0]
    value = delta.pieces["transformer/h/0/attn/c_attn/v"].vector[0]
    assert torch.equal(scaled[..., :32], plain[..., :32])
    assert torch.allclose(scaled[..., 32:64], plain[..., 32:64] * key)
    assert torch.allclose(scaled[..., 64:], plain[..., 64:] * value)


def test_parameter_counts_on_t0_3b():
    """Against the released configurations: (IA)^3, LoRA and adapters without the layer norms they also train."""
    from omegaconf import OmegaConf
    from transformers import AutoConfig

    from adaptbench.models.backbone import from_config

    shape = OmegaConf.to_container(OmegaConf.load("conf/model/t0_3b.yaml").shape)
    anatomy = anatomy_of(from_config(AutoConfig.for_model(**shape)))
    norms = 249_856
    expected = [
        (IA3(), 540_672),
        (LoRA(), 9_097_216 - norms),
        (BitFit(targets=["q", "k", "v", "o", "ff_in", "ff_gate"]), 1_331_200 - norms),
        (BitFit(), 1_331_200 - norms + 98_304 - 72 * 2048),
        (Adapter(), 12_934_144 - norms),
        (Prefix(), 589_824),
    ]
    with torch.device("meta"):
        for method, count in expected:
            assert method.build(anatomy, 1).parameters_per_run == count, method
