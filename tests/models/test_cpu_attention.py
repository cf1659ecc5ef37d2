"""Attention by matrix products is the library's: outputs, gradients, masks, and what is kept between layers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary

from adaptbench.data.batching import collate, encode
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.models import cpu_attention
from adaptbench.models.backbone import Backbone, load_backbone
from adaptbench.models.cpu_attention import applies, attend, kernel, weighed
from adaptbench.scoring.rank import token_log_probabilities
from tests.conftest import WORDS, bpe_tokenizer
from tests.factories import toy_task
from tests.models.architectures import config_of, save_tiny

ROWS, LENGTH, SEEN, WIDTH = 3, 5, 7, 4


def states(heads: int, groups: int, dtype: torch.dtype = torch.float64, rows: int = ROWS) -> tuple[Tensor, ...]:
    """Queries (N, H, T, W), keys and values (N, G, S, W)."""
    shapes = ((rows, heads, LENGTH, WIDTH), (rows, groups, SEEN, WIDTH), (rows, groups, SEEN, WIDTH))
    return tuple(torch.randn(shape, dtype=dtype).requires_grad_() for shape in shapes)


def library(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scaling: float | None) -> Tensor:
    repeats = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeats, dim=1), value.repeat_interleave(repeats, dim=1)
    output = scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    return output.transpose(1, 2)


def with_gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...], *arguments: object) -> list[Tensor]:
    """The output, and what a loss that weighs every number of it differently sends back to each input."""
    output = function(*inputs, *arguments)
    weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view(output.shape)
    return [output.detach(), *torch.autograd.grad((output * weights).sum(), inputs)]


def seen_by_some(*shape: int) -> Tensor:
    """Every query sees its first key, and others by chance."""
    mask = torch.rand(*shape, LENGTH, SEEN) < 0.5
    mask[..., 0] = True
    return mask


MASKS: dict[str, Callable[[int], Tensor | None]] = {
    "none": lambda heads: None,
    "causal": lambda heads: torch.ones(LENGTH, SEEN, dtype=torch.bool).tril(SEEN - LENGTH)[None, None],
    "of every row": lambda heads: seen_by_some(ROWS, 1),
    "of every head": lambda heads: seen_by_some(1, heads),
    "of every row and head": lambda heads: seen_by_some(ROWS, heads),
    "added": lambda heads: torch.randn(1, 1, LENGTH, SEEN, dtype=torch.float64),
    "added, of every row and head": lambda heads: torch.randn(ROWS, heads, LENGTH, SEEN, dtype=torch.float64),
    "added, minus infinity": lambda heads: torch.zeros(ROWS, 1, LENGTH, SEEN, dtype=torch.float64).masked_fill(
        ~seen_by_some(ROWS, 1), -torch.inf
    ),
}


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1), (1, 1)])
@pytest.mark.parametrize("kind", MASKS)
def test_outputs_and_gradients_are_the_librarys(kind, heads, groups):
    mask, inputs = MASKS[kind](heads), states(heads, groups)
    for scaling in (None, 0.3):
        ours, theirs = (with_gradients(function, inputs, mask, scaling) for function in (attend, library))
        assert ours[0].shape == (ROWS, LENGTH, heads, WIDTH)
        for mine, own in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, own, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("heads", "groups"), [(4, 4), (6, 2), (4, 1)])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_two_sets_of_keys_weighed_are_both_at_once(heads, groups, scaling):
    query, key, value = (state.detach() for state in states(heads, groups, torch.float32))
    _, more, their = (3 * state.detach() for state in states(heads, groups, torch.float32))
    mask = torch.zeros(ROWS, 1, LENGTH, SEEN).masked_fill(~seen_by_some(ROWS, 1), -torch.inf)
    all_of_more = torch.zeros(ROWS, 1, LENGTH, SEEN)
    expected = library(
        query, torch.cat([more, key], 2), torch.cat([their, value], 2), torch.cat([all_of_more, mask], 3), scaling
    )
    one, other = kernel(query, more, their, None, scaling), kernel(query, key, value, mask, scaling)
    torch.testing.assert_close(weighed(one, other), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(weighed(other, one), expected, rtol=0, atol=1e-5)
    scores = (query @ more.repeat_interleave(heads // groups, 1).transpose(2, 3)) * (scaling or WIDTH**-0.5)
    torch.testing.assert_close(one[1], scores.logsumexp(-1).transpose(1, 2), rtol=0, atol=1e-5)


def test_what_is_added_to_scores_can_be_learned():
    inputs = (*states(6, 2), torch.randn(1, 6, LENGTH, SEEN, dtype=torch.float64).requires_grad_())
    ours, theirs = (with_gradients(function, inputs, None) for function in (attend, library))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_layers_of_a_pass_share_a_summand_and_two_masks_none():
    inputs = states(6, 2)
    one, other = seen_by_some(ROWS, 1), seen_by_some(ROWS, 1)
    assert not torch.equal(one, other)
    attend(*inputs, one, None)
    made = cpu_attention._summands[one]
    for mask in (one, other, one):
        torch.testing.assert_close(attend(*inputs, mask, None), library(*inputs, mask, None), rtol=0, atol=1e-10)
    assert cpu_attention._summands[one] is made


@pytest.mark.parametrize("added", [False, True])
def test_one_mask_serves_batches_of_other_sizes_heads_and_precisions(added):
    mask = seen_by_some(1, 1)
    if added:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.bfloat16, 0.05), (torch.float16, 0.01)):
        for rows, heads, groups in ((3, 6, 2), (2, 6, 2), (1, 6, 6), (2, 6, 3), (3, 4, 2)):
            inputs = states(heads, groups, dtype, rows)
            theirs = library(*(part.double() for part in inputs), mask if not added else mask.double(), None)
            ours = attend(*inputs, mask, None)
            assert ours.dtype == dtype
            torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=tolerance)


@pytest.mark.parametrize("added", [False, True])
def test_a_summand_goes_with_its_mask(monkeypatch, added):
    monkeypatch.setattr(cpu_attention, "_summands", WeakTensorKeyDictionary())
    mask = torch.randn(1, 1, LENGTH, SEEN, dtype=torch.float64) if added else seen_by_some(1, 1)
    attend(*states(1, 1, rows=1), mask, None)
    assert len(cpu_attention._summands) == 1
    del mask
    assert len(cpu_attention._summands) == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("added", [False, True])
def test_a_query_that_sees_nothing_is_a_number(dtype, added):
    """Padding before a text sees nothing; were it not a number, every later layer would be none either."""
    query = torch.full((1, 1, LENGTH, WIDTH), 8.0, dtype=dtype, requires_grad=True)
    key = torch.full((1, 1, SEEN, WIDTH), -8.0, dtype=dtype)  # scores of -128, on top of what hides a key
    mask = torch.zeros(1, 1, LENGTH, SEEN, dtype=torch.bool)
    if added:
        mask = torch.zeros(mask.shape, dtype=dtype) + torch.finfo(dtype).min
    output = attend(query, key, torch.randn_like(key), mask, None)
    output.sum().backward()
    assert output.isfinite().all()
    assert query.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_hidden_key_has_no_weight_at_all(dtype):
    query, key, value = states(2, 1, dtype)
    mask = seen_by_some(ROWS, 1)
    hidden = ~mask.any(dim=2)[:, 0]  # (N, S), from every query
    assert hidden.any()
    far = torch.where(hidden[:, None, :, None], 100.0, 1.0).to(dtype)
    outputs = [attend(query, key * factor, value * factor, mask, None) for factor in (torch.ones_like(far), far)]
    assert torch.equal(*outputs)


def test_it_applies_to_gradients_in_half_precision_and_scores_of_moderate_size():
    query = torch.empty(2, 4, LENGTH, WIDTH, dtype=torch.bfloat16)
    few = 2 * LENGTH * SEEN
    assert applies(query, few)
    assert applies(query.half(), few)
    assert not applies(query.float(), few)
    assert not applies(query.double(), few)
    assert not applies(query.to("meta"), few)
    with torch.no_grad():
        assert not applies(query, few)
    with torch.inference_mode():
        assert not applies(query, few)
    fitting = cpu_attention.LARGEST // (4 * 2)  # scores of a head, for heads * bytes
    assert applies(query, fitting)
    assert not applies(query, fitting + 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=False)
    return save_tiny(config_of("llama", len(tokenizer)), tokenizer, tmp_path_factory.mktemp("llama"))


def gradients(backbone: Backbone) -> dict[str, Tensor]:
    """Of the mean log-probability of the choices of eight prompts, in one pass, at every weight."""
    rows = [encode(backbone, prompt) for prompt in evaluation_prompts(toy_task(rows=8), "short")]
    backbone.model.requires_grad_(True).zero_grad()
    token_log_probabilities(backbone, collate(rows, backbone.pad_id)).mean().backward()
    return {name: weight.grad.double() for name, weight in backbone.model.named_parameters()}


@pytest.mark.parametrize("path", ["llama", "microworld:micro_gpt_s"])
def test_a_step_in_bfloat16_is_as_near_to_float32_as_with_the_librarys_kernel(folder, monkeypatch, path):
    path, calls = str(folder) if path == "llama" else path, []
    half, whole = (load_backbone.__wrapped__("m", path, dtype, device="cpu") for dtype in ("bfloat16", "float32"))
    whole.model.load_state_dict({name: weight.float() for name, weight in half.model.state_dict().items()})
    monkeypatch.setattr(cpu_attention, "attend", lambda *inputs: calls.append(len(inputs)) or attend(*inputs))
    exact, ours = gradients(whole), gradients(half)
    assert len(calls) == half.model.config.num_hidden_layers  # every layer of the pass in bfloat16, none in float32
    monkeypatch.setattr(cpu_attention, "applies", lambda *_: False)
    kernel = gradients(half)

    def error(found: dict[str, Tensor]) -> float:
        apart = torch.cat([(found[name] - exact[name]).flatten() for name in exact])
        return (apart.norm() / torch.cat([part.flatten() for part in exact.values()]).norm()).item()

    assert 0 < error(kernel) < 0.1
    assert error(ours) != error(kernel)
    assert error(ours) < 1.5 * error(kernel)
