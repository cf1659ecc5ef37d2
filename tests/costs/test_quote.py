"""The paper's arithmetic by hand, published shapes, and the break-even."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from adaptbench.config import register_schemas, resolve
from adaptbench.costs import paper
from adaptbench.costs.lengths import Lengths
from adaptbench.costs.quote import Flops, PlannedCell, Spent, break_even, spent
from adaptbench.models.backbone import meta_backbone
from adaptbench.schema import Config

CONF = Path(__file__).parents[2] / "conf"
PUBLISHED = {  # parameters, from the model cards and, for GPT-3, table 2.1
    "t0_3b": 2.784e9, "t0_11b": 11.0e9, "t5_lm_xxl": 11.0e9,
    "gpt3_6_7b": 6.7e9, "gpt3_13b": 13.0e9, "gpt3_175b": 175e9,
    "opt_6_7b": 6.658e9, "opt_13b": 12.853e9, "opt_175b": 175e9,
    "llama3_8b": 8_030_261_248, "llama3_70b": 70_553_706_496,
    "mbart_large_50": 610_879_488, "m2m100_418m": 483_905_536, "nllb_600m": 615_073_792, "opus_de_en": 74_410_496,
    "qwen3_0_6b": 596_049_920, "qwen3_8b": 8_190_735_360, "qwen3_32b": 32_762_123_264,
}  # fmt: skip


def config_of(*overrides: str) -> Config:
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return resolve(compose("config", ["recipe=tfew", *overrides]))


def cell_of(*overrides: str, shots: int = paper.SHOTS) -> PlannedCell:
    config = config_of(*overrides)
    model = config.model
    backbone = meta_backbone(model.name, model.path, model.dtype, model.shape)
    return PlannedCell(config.method, backbone, config.recipe, Lengths(), shots)


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_have_the_published_number_of_parameters(name):
    total = cell_of(f"model={name}").backbone.parameters_total
    exact = isinstance(PUBLISHED[name], int)
    assert total == (PUBLISHED[name] if exact else pytest.approx(PUBLISHED[name], rel=0.015))


def test_default_lengths_give_both_printed_medians():
    lengths = Lengths()
    assert lengths.prompt == paper.PROMPT_TOKENS == 103
    assert lengths.input + lengths.choice == lengths.demonstration == 98


def test_the_papers_arithmetic_by_hand():
    assert paper.predict(11e9, True, 103) == pytest.approx(1.133e12)
    assert paper.predict(175e9, False, 41 * 98 + 103) == pytest.approx(1.44235e15)
    assert paper.adapt(11e9, True, 1000 * 8 * 103) == pytest.approx(2.7192e16)
    assert paper.storage(41 * 98) == 16_072
    assert paper.kv_cache(96, 12_288, 32 * 512) == 144 * 2**30
    assert paper.saved_by_caching() == pytest.approx(40.0, abs=0.1)


def test_tuning_is_cheaper_from_the_first_prediction_above_the_crossing():
    def made(adapt: float, per_prediction: float, **more: object) -> Spent:
        return Spent("m", "x", 4, 1, 0, 0, Flops(adapt, adapt), Flops(per_prediction, per_prediction), **more)

    tuned, prompted = made(100.0, 1.0), made(0.0, 21.0, once=Flops(40.0, 40.0), after=Flops(5.0, 5.0))
    found = break_even(tuned, prompted)
    assert (found.measured, found.paper, found.cached) == (5, 5, 15)
    assert break_even(made(100.0, 30.0), prompted).measured is None
    assert break_even(made(30.0, 1.0), prompted).cached == 0, "reading the demonstrations already cost more"


def test_t0_11b_against_the_paper():
    """A frozen base costs two forward passes in training, and 19 predictions of GPT-3 175B are 12 when counted."""
    tuned, prompted = spent(cell_of("model=t0_11b", "method=ia3")), spent(cell_of("model=gpt3_175b", "method=icl"))
    assert tuned.trainable == 1_081_344
    assert tuned.adapt.paper == pytest.approx(2.7e16, rel=0.03)
    assert tuned.adapt.measured == pytest.approx(2 / 3 * tuned.adapt.paper, rel=0.03)
    assert prompted.predict.paper == pytest.approx(1.4e15, rel=0.03)
    found = break_even(tuned, prompted)
    assert (found.measured, found.paper) == (12, 19)
    assert found.cached is not None
    assert found.cached > 20 * 12


def test_strategies_of_in_context_learning_pay_for_what_they_read():
    def of(method: str, *more: str, shots: int = 5) -> Spent:
        return spent(cell_of("model=qwen3_0_6b", f"method={method}", *more, shots=shots))

    plain, one_shot = of("icl"), of("icl", shots=1)
    ensemble, cached, calibrated, channel = map(of, ("icl_ensemble", "icl_cached", "icl_calibrated", "icl_channel"))
    assert ensemble.predict == one_shot.predict * 5
    assert ensemble.once == one_shot.once * 5
    assert (cached.adapt, cached.predict) == (plain.once, plain.after)
    assert (calibrated.predict, calibrated.adapt) == (plain.predict, plain.predict * 3)
    assert of("icl_calibrated", "method.cached=true").adapt == plain.once + plain.after * 3
    assert of("icl_knn", "method.neighbours=2").predict == of("icl", shots=2).predict
    assert of("icl_knn").once is None, "nothing is shared where every prompt has demonstrations of its own"
    assert of("icl", f"method.budget={2 * Lengths().demonstration + 1}").predict == of("icl", shots=2).predict
    assert channel.predict.paper == 2 * paper.predict(596_049_920, False, 5 * 98 + 5 + 93)
    assert channel.predict.measured > plain.predict.measured


def test_virtual_tokens_and_searches_are_part_of_the_bill():
    def of(method: str, model: str = "qwen3_0_6b") -> Spent:
        return spent(cell_of(f"model={model}", f"method={method}", shots=5))

    none, ten, hundred = of("zero_shot"), of("prompt_10"), of("prompt_100")
    assert hundred.predict.paper - none.predict.paper == paper.predict(596_049_920, False, 100)
    assert ten.predict.measured < hundred.predict.measured
    fish = of("fish_mask_02")
    assert fish.adapt.paper == paper.adapt(596_049_920, False, (1500 * 8 + 5) * 103)


def test_prompting_that_pays_in_advance_is_broken_even_with_later():
    tuned = Spent("m", "x", 4, 1, 9, 8, Flops(100.0, 100.0), Flops(1.0, 1.0))
    prompted = Spent("m", "x", 4, 0, 0, 0, Flops(40.0, 20.0), Flops(5.0, 5.0))
    found = break_even(tuned, prompted)
    assert (found.measured, found.paper) == (15, 20)
