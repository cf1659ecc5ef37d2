"""Models whose parts nobody told this program: scored and trained as a whole, or refused in one line."""

import json
from dataclasses import dataclass
from functools import cache
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from adaptbench.costs.ledger import CostLedger
from adaptbench.data.fewshot import draw
from adaptbench.data.prompts import evaluation_prompts
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.methods.icl import InContextLearning
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.models.anatomy import ARCHITECTURES
from adaptbench.models.backbone import Backbone, load_backbone, meta_backbone
from adaptbench.scoring.evaluate import all_readings, evaluate
from tests.conftest import WORDS, bpe_tokenizer
from tests.factories import recipe, toy_task
from tests.models.architectures import WINDOW, largest_difference, save_tiny

TOLERANCE = 1e-4  # nats, in single precision
TASK = toy_task(6)
PROMPTS = evaluation_prompts(TASK, "random")[:3]

_GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "bos_token_id": 2, "eos_token_id": 1}
_LLAMA = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 2},
    "eos_token_id": 1,
}
_BART = {
    **{"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48},
    **{"encoder_attention_heads": 4, "decoder_attention_heads": 4, "pad_token_id": 0, "bos_token_id": 2},
    **{"eos_token_id": 1, "decoder_start_token_id": 0},
}
_LAYERS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
SCORED: dict[str, dict[str, Any]] = {
    "gpt_neo": {
        **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "window_size": WINDOW},
        **{"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 512},
    },
    "gptj": {**_GPT, "rotary_dim": 4},
    "codegen": {**_GPT, "n_ctx": 512, "rotary_dim": 4},
    "gpt_bigcode": _GPT,
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512},
    "xglm": {"d_model": 32, "ffn_dim": 48, "num_layers": 2, "attention_heads": 4, "max_position_embeddings": 512},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "cohere2": {**_LLAMA, **_LAYERS},
    "gpt_oss": {**_LLAMA, **_LAYERS, "head_dim": 8, "num_local_experts": 2, "num_experts_per_tok": 1},
    "llama4_text": {
        **{**_LLAMA, "head_dim": 8, "num_local_experts": 2, "intermediate_size_mlp": 48},
        "attention_chunk_size": WINDOW,
    },
    "pegasus": {**_BART, "max_position_embeddings": 512},
    "led": {
        **{**_BART, "max_encoder_position_embeddings": 512, "max_decoder_position_embeddings": 512},
        "attention_window": 8,
    },
    "longt5": {
        **{"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "local_radius": 4},
        **{"decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1},
    },
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "xlnet": ({"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}, "sees the tokens after the one it predicts"),
    "prophetnet": (
        {
            **{"hidden_size": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "num_encoder_layers": 2},
            **{"num_decoder_layers": 2, "num_encoder_attention_heads": 4, "num_decoder_attention_heads": 4},
            **{"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1, "decoder_start_token_id": 2},
        },
        "depends on the rows beside it",
    ),
}
STRATEGIES = {
    "icl": {},
    "icl_channel": {"channel": True},
    "icl_calibrated": {"calibrated": True},
    "icl_ensemble": {"strategy": "ensemble"},
    "icl_knn": {"neighbours": 2},
}


@dataclass(frozen=True)
class Stranger:
    folder: str
    backbone: Backbone
    own: Any


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    """stranger(model type): a tiny model of it, as this program loads it and as transformers does."""

    @cache
    def make(kind: str) -> Stranger:
        folder = _saved(kind, SCORED[kind], tmp_path_factory.mktemp(kind))
        auto = AutoModelForSeq2SeqLM if AutoConfig.from_pretrained(folder).is_encoder_decoder else AutoModelForCausalLM
        own = auto.from_pretrained(folder).eval().requires_grad_(False)
        return Stranger(folder, load_backbone.__wrapped__(kind, folder, device="cpu"), own)

    return make


def _saved(kind: str, settings: dict[str, Any], folder) -> str:
    both_halves = AutoConfig.for_model(kind, **settings).is_encoder_decoder
    tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=both_halves)
    config = AutoConfig.for_model(kind, **{**settings, "vocab_size": len(tokenizer)})
    return str(save_tiny(config, tokenizer, folder))


@pytest.mark.parametrize("kind", SCORED)
def test_scores_equal_transformers_own_forward_on_each_row_alone(stranger, kind):
    """Without and with demonstrations; windows, chunks, states and ALiBi are the model's own business."""
    assert kind not in ARCHITECTURES
    backbone, own = stranger(kind).backbone, stranger(kind).own
    assert largest_difference(own, ZeroShot().prepare(backbone, [0]), PROMPTS) < TOLERANCE
    shown = InContextLearning(name="icl").adapt(backbone, TASK, [draw(TASK, 3, 3)], recipe())
    assert largest_difference(own, shown, PROMPTS) < TOLERANCE


@pytest.mark.parametrize("kind", ["gpt_neo", "pegasus"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_in_context_learning_of_every_kind_does_not_depend_on_the_batch(stranger, kind, strategy):
    method = InContextLearning(name=strategy, **STRATEGIES[strategy])
    adaptation = method.adapt(stranger(kind).backbone, TASK, [draw(TASK, 3, 3)], recipe())
    together, alone = (evaluate(adaptation, PROMPTS, size)[0] for size in (8, 1))
    for batched, single in zip(together, alone, strict=True):
        assert batched.log_likelihoods == pytest.approx(single.log_likelihoods, abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["gpt_neo", "led"])  # one that runs without storage, one that does not
@pytest.mark.parametrize("method", ["icl", "full_ft", "fish_mask"])
def test_whole_models_are_trained_and_billed(stranger, kind, method):
    backbone = stranger(kind).backbone
    options = {"full_ft": {"steps": 2}, "fish_mask": {"steps": 2, "keep": 0.01}}.get(method, {})
    chosen = METHODS[method](name=method, **options)
    adaptation = chosen.adapt(backbone, TASK, [draw(TASK, 3, 2)], recipe(batch_size=2))
    assert not adaptation.log.failures
    read = all_readings(adaptation, PROMPTS[:1])
    bill = CostLedger(chosen, backbone, recipe(batch_size=2)).bill(adaptation, 0, read[0])
    assert bill.flops_predict > 0
    assert bill.kv_cache in (None, 0)  # nobody knows where the model keeps them
    assert (bill.flops_adapt > bill.flops_predict) == (method != "icl")


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_scored_is_found_out_by_a_trial(tmp_path, kind):
    settings, says = REFUSED[kind]
    folder = _saved(kind, settings, tmp_path)
    with pytest.raises(InputError, match=rf"^model.path='{folder}': [^\n]*{says}[^\n]*$"):
        load_backbone.__wrapped__(kind, folder, device="cpu")


def test_nothing_attaches_to_parts_that_are_not_known(stranger):
    for method, options in (("lora", {}), ("prefix", {}), ("prompt", {}), ("ia3", {})):
        with pytest.raises(InputError, match=r"^model=gpt_neo: the parts of [^\n]*'gpt_neo' are not known [^\n]*bart"):
            METHODS[method](name=method, **options).prepare(stranger("gpt_neo").backbone, [0])
    with pytest.raises(InputError, match=r"^model=gpt_neo: the parts"):
        InContextLearning(name="icl_cached", cached=True).check_model(stranger("gpt_neo").backbone)


def test_a_price_without_weights_needs_code_that_asks_no_tensor_for_its_contents(stranger):
    assert meta_backbone("mine", stranger("gpt_neo").folder).device.type == "meta"
    with pytest.raises(InputError, match=r"^model=mine: led runs only with contents"):
        meta_backbone("mine", stranger("led").folder)


@pytest.mark.parametrize(
    ("kind", "settings", "says"),
    [
        ("bert", {}, "bert is an encoder"),
        ("electra", {}, "electra is an encoder"),
        ("gemma3_text", {"use_bidirectional_attention": True}, "reads both ways"),
        ("vit", {}, "no language model of type vit"),
        ("t5", {"decoder_start_token_id": None}, "no decoder_start_token_id"),
        ("bart", {"decoder_start_token_id": None}, "no decoder_start_token_id"),
        ("bigbird_pegasus", {"attention_type": "block_sparse"}, "attention_type='original_full' there works"),
    ],
)
def test_what_the_configuration_alone_forbids_is_refused_before_weights_are_read(tmp_path, kind, settings, says):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **settings}))  # no weights are here at all
    with pytest.raises(InputError, match=rf"^model.path='{tmp_path}': [^\n]*{says}[^\n]*$"):
        load_backbone.__wrapped__("mine", str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
        {
            **{"rope_type": "longrope", "original_max_position_embeddings": 64, "rope_theta": 1e4, "factor": 2.0},
            **{"short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        },
    ],
)
def test_lengths_at_which_rotary_frequencies_depend_on_the_batch_are_refused(tmp_path, rope):
    length = 64 if rope["rope_type"] == "dynamic" else 128
    settings = {**_LLAMA, "max_position_embeddings": length, "rope_parameters": rope}
    folder = _saved("llama", settings, tmp_path)
    assert load_backbone.__wrapped__("mine", folder, device="cpu").max_length == 64
    with pytest.raises(InputError, match=r"^model.max_length=65: beyond 64 tokens[^\n]+depend on the batch$"):
        load_backbone.__wrapped__("mine", folder, device="cpu", max_length=65)
