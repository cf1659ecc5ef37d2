"""Every architecture: scores are transformers' own, all parts are known, all methods attach, learn and are priced."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers.pytorch_utils import Conv1D

from adaptbench.costs.flops import count
from adaptbench.costs.lengths import Lengths
from adaptbench.costs.meta import MetaRun
from adaptbench.costs.quote import PlannedCell, quote
from adaptbench.data.batching import Batch, collate, encode, shape_of
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.errors import InputError
from adaptbench.methods.base import Adaptation
from adaptbench.methods.icl import InContextLearning
from adaptbench.methods.prompt import PromptTuning
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.models.anatomy import ARCHITECTURES, ENCODERS_ONLY
from adaptbench.models.backbone import Backbone, meta_backbone
from adaptbench.scoring.evaluate import evaluate
from adaptbench.scoring.rank import token_log_probabilities
from adaptbench.scoring.shared_context import read
from adaptbench.training.losses import per_run_loss
from tests.factories import recipe, toy_task
from tests.methods.roster import VARIANTS
from tests.models.architectures import (
    DECODERS,
    ENCODER_DECODERS,
    SETTINGS,
    WINDOW,
    WINDOWED,
    largest_difference,
    own_log_likelihood,
)

TOLERANCE = 1e-4  # nats, in single precision
TASK = toy_task(6)
PROMPTS = evaluation_prompts(TASK, "random")
SEEDS = (1, 2)
WORDS = (40, 7, 211)  # token ids that virtual tokens are made to equal
UNGATED = ("t5_ungated_tied", "bart", "mbart", "m2m_100", "marian", "gpt2", "gpt_neox", "opt", "bloom", "falcon")
ONLY_EXPERTS = ("mixtral", "qwen3_moe")
GATED = [name for name in SETTINGS if not name.startswith(UNGATED + ONLY_EXPERTS)]


def batch_of(backbone: Backbone, runs: int, rows: slice = slice(0, 3)) -> Batch:
    return collate([encode(backbone, prompt) for prompt in PROMPTS[rows]] * runs, backbone.pad_id)


def loss_of(adaptation: Adaptation, batch: Batch, runs: int) -> Tensor:  # (R,)
    with adaptation.attached():
        log_p = token_log_probabilities(adaptation.backbone, batch)
    return per_run_loss(recipe().losses, log_p, batch.target_mask, batch.label, runs)


def log_p_of(adaptation: Adaptation, batch: Batch) -> Tensor:
    with torch.no_grad(), adaptation.attached():
        return token_log_probabilities(adaptation.backbone, batch)


@pytest.mark.parametrize("name", SETTINGS)
def test_scores_equal_transformers_own_forward_on_each_row_alone(tiny, name):
    """Batches of rows of unequal lengths, choices that share a pass or do not; the prompt alone or after others."""
    backbone, own = tiny(name).backbone, tiny(name).own
    assert largest_difference(own, ZeroShot().prepare(backbone, [0]), PROMPTS) < TOLERANCE
    shown = InContextLearning(name="icl").adapt(backbone, TASK, [draw(TASK, 3, 3)], recipe())
    assert largest_difference(own, shown, PROMPTS[:2]) < TOLERANCE


@pytest.mark.parametrize("name", DECODERS)
def test_demonstrations_read_once_score_as_those_read_every_time(tiny, name):
    """All windows are shorter than the demonstrations. Where nothing can be shared, one line says so."""
    backbone = tiny(name).backbone
    again, once = InContextLearning(name="icl"), InContextLearning(name="icl_cached", cached=True)
    if not backbone.shares_demonstrations:
        with pytest.raises(InputError, match=r"^method.cached=true: \w+ computes attention in its own code, [^\n]+$"):
            once.check_model(backbone)
        return
    shots = [draw(TASK, 3, 3)]
    each, shared = (evaluate(m.adapt(backbone, TASK, shots, recipe()), PROMPTS, 4)[0] for m in (again, once))
    for alone, cached in zip(each, shared, strict=True):
        assert alone.log_likelihoods == pytest.approx(cached.log_likelihoods, abs=TOLERANCE)


@pytest.mark.parametrize("window", [WINDOW, 512])
@pytest.mark.parametrize("name", DECODERS)
def test_demonstrations_read_once_have_the_keys_and_values_of_transformers_own_cache(tiny, name, window):
    """Whether the window ends within them or not."""
    backbone, own = tiny(name).backbone, tiny(name).own
    if not backbone.shares_demonstrations or (window != WINDOW and name not in WINDOWED):
        pytest.skip("nothing is shared, or there is no window")
    ids = torch.arange(10, 40) % 97
    models = [copy.deepcopy(model) for model in (backbone.model, own)]
    for model in models if name in WINDOWED else ():
        model.config.sliding_window = window
        for module in model.modules():
            if getattr(module, "sliding_window", None):
                module.sliding_window = window
    states = read(replace(backbone, model=models[0]), ids.tolist())
    with torch.inference_mode():
        cache = models[1](input_ids=ids[None], use_cache=True).past_key_values
    for layer, (key, value) in enumerate(states.values()):
        kept = cache.layers[layer]
        length = kept.keys.shape[2]  # a sliding cache keeps the last ones
        torch.testing.assert_close(key[:, :, -length:], kept.keys, rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(value[:, :, -length:], kept.values, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", SETTINGS)
def test_virtual_tokens_that_equal_words_score_as_these_words(tiny, name):
    """Prompt tuning puts vectors where embeddings are: with scales, positions, windows and choices as for words."""
    backbone, own = tiny(name).backbone, tiny(name).own
    adaptation = PromptTuning(name="prompt", virtual_tokens=len(WORDS)).prepare(backbone, [0])
    for site in backbone.anatomy.embeddings:
        embedding = backbone.model.get_submodule(site.path)
        with torch.no_grad():
            vectors = site.scale * embedding(torch.tensor([WORDS]))
            adaptation.delta.pieces[f"prompt/{site.kind}"].vectors.copy_(vectors)
    scores = evaluate(adaptation, PROMPTS[:4], 4)[0]
    for prompt, score in zip(PROMPTS[:4], scores, strict=True):
        plain = encode(backbone, prompt)
        expected = [own_log_likelihood(own, (*WORDS, *plain.source), choice, WORDS) for choice in plain.choices]
        assert score.log_likelihoods == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("name", WINDOWED)
def test_these_windows_change_scores(tiny, name):
    """Or the tests above would not test them."""
    encoded = max((encode(tiny(name).backbone, prompt) for prompt in PROMPTS), key=lambda row: len(row.source))
    assert len(encoded.source) > 2 * WINDOW
    free = copy.deepcopy(tiny(name).own)
    free.config.sliding_window = 10_000
    choice = encoded.choices[0]
    windowed, unlimited = (own_log_likelihood(model, encoded.source, choice) for model in (tiny(name).own, free))
    assert abs(windowed - unlimited) > 100 * TOLERANCE


@pytest.mark.parametrize("name", SETTINGS)
def test_all_norms_and_linear_maps_are_known(tiny, name):
    """But the head, an expert's router, and projections between embeddings and the rest."""
    backbone = tiny(name).backbone
    anatomy, modules = backbone.anatomy, dict(backbone.model.named_modules())
    norms = {path for path, module in modules.items() if "Norm" in type(module).__name__ and hasattr(module, "weight")}
    assert {site.path for site in anatomy.norms} == {path for path in norms if modules[path].weight is not None}
    linears = {path for path, module in modules.items() if isinstance(module, nn.Linear | Conv1D)}
    other = ("lm_head", "embed_out", "project_in", "project_out", "shared_expert_gate")
    assert {site.path for site in anatomy.linears} == {path for path in linears if not path.endswith(other)}
    for path in linears - {path for path in linears if path.endswith(other)}:
        sites = [site for site in anatomy.linears if site.path == path]
        assert sum(site.d_out for site in sites) == backbone.model.get_submodule(path).weight.numel() // sites[0].d_in


@pytest.mark.parametrize("name", DECODERS)
def test_queries_keys_and_values_are_where_the_anatomy_says(tiny, name):
    """What is zeroed at the first token: its query matters to itself alone, its key to later ones alone (it has nobody
    else to look at), and its value is all that it makes of itself."""
    backbone = tiny(name).backbone
    ids = torch.tensor([encode(backbone, PROMPTS[0]).source[: WINDOW - 1]])
    places = {site.role: site for site in backbone.anatomy.linears if site.role in "qkvo"}  # of the last layer

    def attended(role: str = "") -> Tensor:  # (S, width) what the output map reads
        found, handles = [], []

        def zero(_module, _inputs, result):
            result = result.clone()
            columns = places[role].columns
            result[:, 0, slice(None) if columns is None else columns.places(result.shape[-1])] = 0
            return result

        if role:
            handles.append(backbone.model.get_submodule(places[role].path).register_forward_hook(zero))
        output = backbone.model.get_submodule(places["o"].path)
        handles.append(output.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0][0])))
        with torch.no_grad():
            backbone.model(input_ids=ids, use_cache=False)
        for handle in handles:
            handle.remove()
        return found[-1]

    before = attended()
    query, key, value = (attended(role) for role in "qkv")
    assert torch.allclose(query[1:], before[1:], atol=1e-5)
    assert torch.allclose(key[0], before[0], atol=1e-5)
    assert (key[1:] - before[1:]).abs().max() > 1e-3
    assert value[0].abs().max() < 1e-6
    assert (value[1:] - before[1:]).abs().max() > 1e-3


@pytest.mark.parametrize("name", GATED)
def test_inner_activations_are_linear_in_one_map_and_not_in_the_gate(tiny, name):
    """Which half of Phi-3's fused map is which, and of T5's two maps."""
    backbone = tiny(name).backbone
    sites = {site.role: site for site in backbone.anatomy.linears if site.role.startswith("ff")}
    block = backbone.model.get_submodule(sites["ff_out"].path.rpartition(".")[0])
    states = torch.randn(1, 2, sites["ff_in"].d_in)

    def inner(role: str = "") -> Tensor:
        def double(_module, _inputs, result):
            result, columns = result.clone(), sites[role].columns
            result[..., slice(None) if columns is None else columns.places(result.shape[-1])] *= 2
            return result

        found, handles = [], []
        if role:
            handles.append(backbone.model.get_submodule(sites[role].path).register_forward_hook(double))
        output = backbone.model.get_submodule(sites["ff_out"].path)
        handles.append(output.register_forward_pre_hook(lambda _module, inputs: found.append(inputs[0])))
        with torch.no_grad():
            block(states)
        for handle in handles:
            handle.remove()
        return found[-1]

    before = inner()
    assert torch.allclose(inner("ff_in"), 2 * before, atol=1e-5)
    assert not torch.allclose(inner("ff_gate"), 2 * before, atol=1e-2)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_method_attaches_and_learns_and_merges_where_it_says_so(tiny, name):
    """Two fused runs: gradients are those of each run alone, a step is finite and changes the loss."""
    backbone = tiny(name).backbone
    for variant, method in VARIANTS.items():
        if not backbone.anatomy.takes_prefixes and variant.startswith(("prefix", "unipelt")):
            with pytest.raises(InputError, match=r"^method=\w+: \w+ computes attention in its own code, [^\n]+$"):
                method.prepare(backbone, SEEDS)
            continue
        adaptation = method.prepare(backbone, SEEDS)
        batch = batch_of(adaptation.backbone, len(SEEDS))
        with torch.no_grad():  # away from zero, where half of the gradients are
            for parameter in adaptation.parameters:
                parameter.add_(0.02 * torch.randn_like(parameter))
        before = loss_of(adaptation, batch, runs=2)
        before.sum().backward()
        assert all(parameter.grad is not None for parameter in adaptation.parameters), variant
        if variant in ("ia3", "lora_tfew"):
            assert_gradients_are_those_of_the_second_run_alone(adaptation, method.prepare(backbone, SEEDS[1:]))
        with torch.no_grad():
            for parameter in adaptation.parameters:
                parameter.sub_(1e-2 * parameter.grad / parameter.grad.norm().clamp(min=1e-9))
        after = log_p_of(adaptation, batch)
        assert after.isfinite().all(), variant
        changed = per_run_loss(recipe().losses, after, batch.target_mask, batch.label, 2)
        assert ((changed - before).abs() > 1e-6).all(), variant
        if method.merges:
            kept = adaptation.for_inference()
            merged = log_p_of(Adaptation(method.merge(kept, 1), [0]), batch_of(backbone, 1))
            assert (merged - after[len(merged) :]).abs().max() < TOLERANCE, variant


def assert_gradients_are_those_of_the_second_run_alone(fused: Adaptation, alone: Adaptation) -> None:
    with torch.no_grad():
        for parameter, fused_parameter in zip(alone.parameters, fused.parameters, strict=True):
            parameter.copy_(fused_parameter[1:])
    loss_of(alone, batch_of(alone.backbone, 1), runs=1).sum().backward()
    for parameter, fused_parameter in zip(alone.parameters, fused.parameters, strict=True):
        assert torch.allclose(
            parameter.grad[0], fused_parameter.grad[1], atol=1e-5 + 1e-3 * parameter.grad.abs().max().item()
        )


@pytest.mark.parametrize("name", SETTINGS)
def test_flops_counted_without_storage_equal_those_of_the_real_run(tiny, name):
    """The price of a pass and of a training step, for rows of unequal lengths."""
    backbone = tiny(name).backbone
    if hasattr(backbone.model, "set_experts_implementation"):  # whose kernel for groups no counter sees
        backbone = replace(backbone, model=copy.deepcopy(backbone.model))
        backbone.model.set_experts_implementation("eager")
    rows = [encode(backbone, prompt) for prompt in PROMPTS[:3]]
    method, batch = VARIANTS["lora"], collate(rows, backbone.pad_id)
    priced, real = MetaRun.of(method, backbone, recipe()), method.prepare(backbone, [0])
    with sdpa_kernel(SDPBackend.MATH):  # the fused one computes scores again in its backward pass
        passed = count(lambda: log_p_of(real, batch))
        trained = count(lambda: loss_of(real, batch, runs=1).sum().backward())
    assert count(lambda: priced.predict(shape_of(rows))) == passed
    assert count(lambda: priced.forward_backward(shape_of(rows))) == trained


DEEP = {
    "gemma3_text": {"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]},
    "smollm3_nope_windows": {
        **{"num_hidden_layers": 6, "layer_types": ["sliding_attention"] * 5 + ["full_attention"]},
        "no_rope_layers": [1, 1, 1, 0, 1, 1],
    },
    "qwen2_moe": {"num_hidden_layers": 6},
    "bart": {"encoder_layers": 6, "decoder_layers": 5},
    "m2m_100": {"encoder_layers": 5, "decoder_layers": 6},
    "bloom": {"n_layer": 6},
    "falcon_40b": {"num_hidden_layers": 6},
}


@pytest.mark.parametrize("name", DEEP)
@pytest.mark.parametrize("method", ["icl", "lora"])
def test_a_deep_model_without_weights_is_priced_exactly(name, method):
    """From two shallow ones, though layers differ; demonstrations are shared where that is possible."""
    kind, settings = SETTINGS[name]
    backbone = meta_backbone(name, "", "float32", {"model_type": kind, "vocab_size": 99, **settings, **DEEP[name]})
    chosen = InContextLearning(name="icl") if method == "icl" else VARIANTS["lora"]
    cell = PlannedCell(chosen, backbone, recipe(), Lengths(5, 2, 3, 4), shots=3)
    bill = quote(cell)
    assert bill.spent.predict.measured == count(lambda: cell.run.predict(cell.shape(cell.context)))
    assert (bill.spent.once is not None) == (method == "icl" and backbone.shares_demonstrations)
    if method == "lora":
        step = count(lambda: cell.run.forward_backward(cell.batch()))
        assert bill.spent.adapt.measured == cell.steps * step


def test_layers_are_never_left_out_while_training(tiny):
    """M2M-100 drops some by default: they would get no gradient, and prices would be a matter of luck."""
    assert SETTINGS["m2m_100"][0] == "m2m_100"
    for backbone in (tiny("m2m_100").backbone, tiny("m2m_100").backbone.on_meta()):
        assert tiny("m2m_100").own.config.encoder_layerdrop > 0
        assert backbone.model.model.encoder.layerdrop == backbone.model.model.decoder.layerdrop == 0


def test_a_trained_prefix_is_seen_from_beyond_the_window(tiny):
    """Its keys have no positions (arXiv 2101.00190), so no window hides them: here of the second layer alone."""
    backbone = tiny("mistral_windows").backbone
    adaptation = VARIANTS["prefix"].prepare(backbone, [0])
    last = adaptation.delta.pieces["model/layers/1/self_attn"]
    batch = batch_of(adaptation.backbone, 1, slice(0, 1))
    before = log_p_of(adaptation, batch)
    with torch.no_grad():
        last.value.add_(1.0)
    assert (log_p_of(adaptation, batch) - before)[batch.target_mask].abs().min() > 100 * TOLERANCE


def test_encoder_decoders_and_decoders_are_all_there():
    assert {SETTINGS[name][0] for name in (*ENCODER_DECODERS, *DECODERS)} | set(ENCODERS_ONLY) == set(ARCHITECTURES)
