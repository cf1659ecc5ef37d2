"""Norms in half precision are the library's to the last bit, their gradients to its rounding, and elsewhere its own."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from adaptbench.models.cpu_norms import quicken

WIDTH = 48


def norm_of(kind, dtype=torch.bfloat16):
    torch.manual_seed(1)
    norm = kind(WIDTH, eps=1e-5).to(dtype).requires_grad_(False)
    norm.weight.copy_(torch.randn(WIDTH))
    return norm


def states(dtype=torch.bfloat16):
    torch.manual_seed(2)
    return (5 * torch.randn(3, 7, WIDTH)).to(dtype).requires_grad_()


def is_quick(norm):
    return any(kind.__name__ == "_Quick" for kind in type(norm).__mro__)


def output_and_gradient(norm, inputs):
    output = norm(inputs)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return output.detach(), torch.autograd.grad((output * weights).sum(), inputs)[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_norm_computes_what_it_did(dtype):
    own, quick = norm_of(LlamaRMSNorm, dtype), norm_of(LlamaRMSNorm, dtype)
    quicken(nn.ModuleList([quick]))
    assert is_quick(quick)
    (expected, slope), (found, ours) = (output_and_gradient(norm, states(dtype)) for norm in (own, quick))
    assert torch.equal(found, expected)
    torch.testing.assert_close(ours, slope, rtol=0.05, atol=0.01)  # the library rounds intermediate results


def test_its_gradient_is_that_in_double_precision():
    quick, exact = norm_of(LlamaRMSNorm), norm_of(LlamaRMSNorm).double()
    exact.forward = lambda x: exact.weight * x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()
    quicken(nn.ModuleList([quick]))
    inputs = states()
    _, expected = output_and_gradient(exact, inputs.detach().double().requires_grad_())
    _, found = output_and_gradient(quick, inputs)
    torch.testing.assert_close(found.double(), expected, rtol=0.01, atol=0.002)


@pytest.mark.parametrize("norm", [norm_of(GemmaRMSNorm), norm_of(LlamaRMSNorm, torch.float32), nn.LayerNorm(WIDTH)])
def test_a_norm_that_computes_something_else_is_left_alone(norm):
    """Gemma multiplies by one plus the weight, before it rounds."""
    kind = type(norm)
    quicken(nn.ModuleList([norm]))
    assert type(norm) is kind


def test_a_norm_in_half_precision_whose_weight_is_trained_gives_it_the_librarys_gradient():
    own, quick = norm_of(LlamaRMSNorm), norm_of(LlamaRMSNorm)
    quicken(nn.ModuleList([quick]))
    for norm in (own, quick):
        norm.requires_grad_(True)(states()).sum().backward()
    assert quick.weight.grad.abs().sum() > 0
    assert torch.equal(quick.weight.grad, own.weight.grad)


def test_it_is_still_an_instance_of_its_class_and_can_be_copied():
    """Methods look norms up by their class, and full fine-tuning copies the model."""
    model = nn.ModuleList([norm_of(LlamaRMSNorm), norm_of(T5LayerNorm)])
    quicken(model)
    quicken(model)
    assert isinstance(model[0], LlamaRMSNorm)
    assert type(model[0]).__name__ == "LlamaRMSNorm"
    inputs = states()
    assert torch.equal(copy.deepcopy(model)[0](inputs), model[0](inputs))
