"""A budget decides a method's size: the largest whose parameters are within it."""

import json
from dataclasses import replace

import pytest

from adaptbench.config import question
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.methods.budget import largest, non_embedding, parameters_allowed, parse
from adaptbench.methods.lora import LoRA
from adaptbench.models.backbone import Backbone, meta_backbone
from tests.costs.test_quote import config_of

SIZED = {"adapter": "bottleneck", "lora": "rank", "prefix": "virtual_tokens", "prompt": "virtual_tokens"}
LAYERS, WIDTH = 24, 1024


@pytest.fixture(scope="module")
def mbart() -> Backbone:
    """The published shape of mBART-50 (twelve layers a side), without weights."""
    model = config_of("model=mbart_large_50").model
    return meta_backbone(model.name, model.path, shape=model.shape)


def trainable(method, backbone):
    return method.prepare(backbone, [0]).trainable


@pytest.mark.parametrize(("kind", "setting"), SIZED.items())
@pytest.mark.parametrize("budget", ["0.1%", "1%", "10%", "2.5M", "700k"])
def test_the_next_larger_size_would_be_beyond_the_budget(mbart, kind, setting, budget):
    method = METHODS[kind](name=kind, budget=budget)
    sized, allowed = method.sized(mbart), parameters_allowed(budget, "all", mbart)
    next_larger = replace(sized, budget=None, **{setting: getattr(sized, setting) + 1})
    assert trainable(sized, mbart) <= allowed < trainable(next_larger, mbart)
    assert trainable(method, mbart) == trainable(sized, mbart)


@pytest.mark.parametrize(("width", "parameters"), [(64, 3_220_992), (256, 12_662_784), (1024, 50_429_952)])
def test_adapters_after_every_layer_have_the_parameters_of_a_hand_count(mbart, width, parameters):
    """A norm, two matrices and two biases in each of 24 layers."""
    assert LAYERS * (2 * WIDTH * width + width + WIDTH + 2 * WIDTH) == parameters
    own = METHODS["adapter"](name="adapter_bapna", placement="pfeiffer", pre_norm=True, bottleneck=width)
    assert trainable(own, mbart) == parameters
    assert replace(own, bottleneck=None, budget=str(parameters)).sized(mbart).bottleneck == width
    assert replace(own, bottleneck=None, budget=str(parameters - 1)).sized(mbart).bottleneck == width - 1


def test_the_denominator_is_named(mbart):
    embeddings = 250_054 * WIDTH
    assert mbart.parameters_total == 610_879_488
    assert non_embedding(mbart) == mbart.parameters_total - embeddings, "tied matrices count once"
    assert parameters_allowed("10%", "non_embedding", mbart) == int(0.1 * non_embedding(mbart))
    method = METHODS["adapter"](name="a", budget="1%", budget_of="non_embedding")
    assert method.sized(mbart).bottleneck < replace(method, budget_of="all").sized(mbart).bottleneck


def test_lora_keeps_its_scale(mbart):
    sized = LoRA(name="lora", rank=4, alpha=8.0, budget="1%").sized(mbart)
    assert sized.rank > 4
    assert sized.alpha / sized.rank == 2.0


def test_what_is_stored_has_the_size_and_not_the_budget(mbart, tmp_path):
    method = METHODS["adapter"](name="a", budget="1%").sized(mbart)
    settings = json.loads(method.settings(method.prepare(mbart, [0])))
    assert settings["bottleneck"] == method.bottleneck
    assert "budget" not in settings


def test_the_largest_size_within_a_number():
    for allowed in range(40):
        assert largest(lambda size: 3 * size + 4, allowed) == max(0, (allowed - 4) // 3)


@pytest.mark.parametrize("text", ["", "0", "ten", "10 %%", "-5", "5x"])
def test_what_is_no_budget_is_refused(text):
    with pytest.raises(InputError, match=r"expected a share of the model's parameters \(10%\) or a number \(1M\)"):
        parse(text)


def test_a_budget_below_the_smallest_size_says_so(mbart):
    with pytest.raises(InputError, match=r"method.budget=9: 9 parameters of mbart.*, but a has .* \(bottleneck=1\)"):
        METHODS["adapter"](name="a", budget="9").sized(mbart)


def test_the_same_question_has_the_same_id_whatever_size_stood_there_before():
    def asked(*overrides):
        return question(config_of("model=micro_t0", "dataset=micro_rte", *overrides), 0, 32, 10)["method"]

    plain = asked("method=lora")
    assert not {"budget", "budget_of"} & set(plain)
    assert asked("method=lora", "method.budget=1%") == asked("method=lora", "method.budget=1%", "method.rank=9")
    assert asked("method=lora", "method.budget=1%") != plain
    assert not {"bottleneck", "pre_norm"} & set(asked("method=adapter"))
    with pytest.raises(InputError, match="bitfit has no size to choose"):
        asked("method=bitfit", "method.budget=1%")
    with pytest.raises(InputError, match=r"method\.budget_of='some': expected all or non_embedding"):
        asked("method=lora", "method.budget_of=some")
