"""Adapters that Hugging Face PEFT has made: imported to compute what PEFT computes, or refused by name."""

import copy
import json
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPTNeoXConfig, MarianConfig, Phi3Config

from adaptbench.errors import InputError
from adaptbench.methods.ia3 import IA3
from adaptbench.methods.lora import LoRA
from adaptbench.methods.peft_format import export_peft, import_peft
from adaptbench.methods.peft_settings import check_settings
from adaptbench.methods.prompt import PromptTuning
from adaptbench.models.anatomy import ROLES
from adaptbench.models.backbone import load_backbone

CONFIGS = {
    "LORA": peft.LoraConfig,
    "IA3": peft.IA3Config,
    "LN_TUNING": peft.LNTuningConfig,
    "PROMPT_TUNING": peft.PromptTuningConfig,
    "ADALORA": peft.AdaLoraConfig,
    "PREFIX_TUNING": peft.PrefixTuningConfig,
    "P_TUNING": peft.PromptEncoderConfig,
}


def made_by_peft(backbone, folder, kind, randomise=True, **arguments):
    """An adapter of PEFT's with random values, saved by PEFT, and the model that computes with it."""
    task = "SEQ_2_SEQ_LM" if backbone.is_encoder_decoder else "CAUSAL_LM"
    config = CONFIGS[kind](**{"task_type": task, **arguments})
    torch.manual_seed(5)
    model = peft.get_peft_model(copy.deepcopy(backbone.model), config).eval()
    if randomise:
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def logits_of(backbone, model, attached=None, virtual_tokens=0):
    """With an adaptation attached to the backbone's model, or of a model as it is."""
    ids = torch.randint(3, 300, (2, 9), generator=torch.Generator().manual_seed(1))
    more = {"decoder_input_ids": ids[:, :4]} if backbone.is_encoder_decoder else {}
    ids = torch.cat([-1 - torch.arange(virtual_tokens).expand(2, -1), ids], 1)
    with torch.no_grad():
        if attached is None:
            return model(input_ids=ids, **more).logits
        with attached.attached():
            return model(input_ids=ids, **more).logits


def assert_same(backbone, folder, model):
    method, adaptation = import_peft(folder, backbone)
    expected = logits_of(backbone, model)
    found = logits_of(backbone, backbone.model, adaptation, adaptation.backbone.virtual_tokens)
    assert (found[:, -expected.shape[1] :] - expected[:, -found.shape[1] :]).abs().max() < 1e-5
    plain = logits_of(backbone, backbone.model)
    assert (found[:, -plain.shape[1] :] - plain).abs().max() > 1e-3
    return method


def refused(folder, backbone):
    with pytest.raises(InputError) as error:
        import_peft(folder, backbone)
    assert len(str(error.value).splitlines()) == 1
    assert str(error.value).startswith(str(folder))
    return str(error.value)


QV = {"target_modules": ["q_proj", "v_proj"], "r": 4}
IMPORTED = {
    "names": ("llama", "LORA", QV),
    "paths": ("llama", "LORA", {"target_modules": [f"model.layers.{i}.mlp.down_proj" for i in range(2)]}),
    "regular expression": ("t5", "LORA", {"target_modules": r".*Attention\.(q|v)"}),
    "all linear maps": ("llama", "LORA", {"target_modules": "all-linear"}),
    "transposed weights": ("gpt2", "LORA", {"target_modules": ["c_proj"]}),
    "transposed, as PEFT has it": ("gpt2", "LORA", {"target_modules": ["c_fc"], "fan_in_fan_out": True}),
    "rank-stabilised": ("opt", "LORA", {"target_modules": ["fc1"], "use_rslora": True, "r": 4, "lora_alpha": 6}),
    "dropout": ("llama", "LORA", {**QV, "lora_dropout": 0.3}),
    "gaussian": ("llama", "LORA", {**QV, "init_lora_weights": "gaussian"}),
    "orthogonal": ("llama", "LORA", {**QV, "init_lora_weights": "orthogonal"}),
    "eva": ("llama", "LORA", {**QV, "init_lora_weights": "eva", "eva_config": peft.EvaConfig()}),
    "mica": ("llama", "LORA", {**QV, "init_lora_weights": "mica"}),
    "no task": ("llama", "LORA", {**QV, "task_type": None}),
    "scales": ("llama", "IA3", {}),
    "scales in an encoder-decoder": ("t5", "IA3", {}),
    "scales by regular expression": (
        "opt",
        "IA3",
        {"target_modules": r".*\.(k_proj|v_proj|fc2)", "feedforward_modules": r".*\.fc2"},
    ),
    "norms": ("llama", "LN_TUNING", {}),
    "norms in an encoder-decoder": ("t5", "LN_TUNING", {}),
    "norms with biases": ("gpt2", "LN_TUNING", {"target_modules": ["ln_1", "ln_2", "ln_f"]}),
    "prompt": ("llama", "PROMPT_TUNING", {"num_virtual_tokens": 3}),
    "prompt in an encoder-decoder": ("t5", "PROMPT_TUNING", {"num_virtual_tokens": 3}),
    "prompt once": ("t5", "PROMPT_TUNING", {"num_virtual_tokens": 3, "num_transformer_submodules": 1}),
    "prompt from words": (
        "gpt2",
        "PROMPT_TUNING",
        {"num_virtual_tokens": 3, "prompt_tuning_init": "SAMPLE_VOCAB"},
    ),
}


@pytest.mark.parametrize("case", IMPORTED)
def test_an_imported_adapter_computes_what_peft_computes(backbones, tmp_path, case):
    architecture, kind, arguments = IMPORTED[case]
    model = made_by_peft(backbones[architecture], tmp_path, kind, **arguments)
    method = assert_same(backbones[architecture], tmp_path, model)
    if case == "all linear maps":
        assert set(method.targets) == set(ROLES)
        edited(tmp_path, tmp_path / "again", {"target_modules": "All-Linear"})
        assert import_peft(tmp_path / "again", backbones[architecture])[0] == method


def test_a_decomposed_adapter_is_imported_once_peft_has_converted_it(backbones, tmp_path):
    """PiSSA takes its start out of the base weights: as it is trained it belongs to other weights than ours."""
    backbone = backbones["llama"]
    model = made_by_peft(backbone, tmp_path / "start", "LORA", randomise=False, **QV, init_lora_weights="pissa")
    settings = json.loads((tmp_path / "start" / "adapter_config.json").read_text())
    (tmp_path / "start" / "adapter_config.json").write_text(json.dumps({**settings, "init_lora_weights": True}))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "as it is")
    assert "init_lora_weights='pissa'" in refused(tmp_path / "as it is", backbone)
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    assert_same(backbone, tmp_path / "converted", model)


REFUSED = {
    "output layer": ("llama", "LORA", {"target_modules": ["q_proj", "lm_head"]}, "'lm_head' is no linear map"),
    "embedding": ("llama", "LORA", {"target_modules": ["q_proj", "embed_tokens"]}, "embed_tokens' is no linear map"),
    "bias of the update": ("opt", "LORA", {**QV, "lora_bias": True}, "lora_bias=True"),
    "biases of targets": ("opt", "LORA", {**QV, "bias": "lora_only"}, "bias='lora_only'"),
    "all biases": ("opt", "LORA", {**QV, "bias": "all"}, "bias='all'"),
    "pissa, fast": ("llama", "LORA", {**QV, "init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
    "olora": ("llama", "LORA", {**QV, "init_lora_weights": "olora"}, "init_lora_weights='olora'"),
    "dora": ("llama", "LORA", {**QV, "use_dora": True}, "use_dora=True"),
    "activated": ("llama", "LORA", {**QV, "alora_invocation_tokens": [5]}, "alora_invocation_tokens=[5]"),
    "ranks": ("llama", "LORA", {**QV, "rank_pattern": {"v_proj": 2}}, "rank_pattern={'v_proj': 2}"),
    "alphas": ("llama", "LORA", {**QV, "alpha_pattern": {"v_proj": 2}}, "alpha_pattern={'v_proj': 2}"),
    "some layers": ("llama", "LORA", {**QV, "layers_to_transform": [1]}, "layers_to_transform=[1]"),
    "first layer": ("llama", "LORA", {**QV, "layers_to_transform": 0}, "layers_to_transform=0"),
    "some paths": ("llama", "LORA", {"target_modules": r".*layers\.1.*q_proj"}, "leaves out 'model.layers.0"),
    "excluded": ("llama", "LORA", {**QV, "exclude_modules": ["model.layers.0.self_attn.q_proj"]}, "exclude_modules="),
    "replicated": ("llama", "LORA", {**QV, "layer_replication": [[0, 2], [0, 2]]}, "layer_replication="),
    "tokens": ("llama", "LORA", {**QV, "trainable_token_indices": [3, 4]}, "trainable_token_indices=[3, 4]"),
    "lora and a layer": ("llama", "LORA", {**QV, "modules_to_save": ["lm_head"]}, "modules_to_save=['lm_head']"),
    "fused": ("gpt2", "LORA", {}, "fused projection"),
    "another type": ("llama", "ADALORA", {"total_step": 3}, "peft_type='ADALORA'"),
    "prefix": ("llama", "PREFIX_TUNING", {"num_virtual_tokens": 3}, "peft_type='PREFIX_TUNING'"),
    "projected prefix": (
        "t5",
        "PREFIX_TUNING",
        {"num_virtual_tokens": 3, "prefix_projection": True, "encoder_hidden_size": 8},
        "peft_type='PREFIX_TUNING'",
    ),
    "encoded prompt": ("gpt2", "P_TUNING", {"num_virtual_tokens": 3}, "peft_type='P_TUNING'"),
    "scales and a layer": ("llama", "IA3", {"modules_to_save": ["lm_head"]}, "modules_to_save=['lm_head']"),
    "scaled queries": ("gpt2", "IA3", {}, "c_attn.ia3_l' changes parts of a module"),
    "scaled queries by name": ("opt", "IA3", {}, "target_modules="),
    "scaled outputs": (
        "llama",
        "IA3",
        {"target_modules": ["k_proj", "v_proj", "down_proj"], "feedforward_modules": []},
        "feedforward_modules=[]",
    ),
    "norms and a layer": ("llama", "LN_TUNING", {"modules_to_save": ["lm_head"]}, "modules_to_save=['lm_head']"),
    "some norms": ("llama", "LN_TUNING", {"target_modules": ["input_layernorm"]}, "differs at 'model.layers.0"),
    "norms and a map": (
        "llama",
        "LN_TUNING",
        {"target_modules": ["input_layernorm", "post_attention_layernorm", "norm", "q_proj"]},
        "self_attn.q_proj'",
    ),
    "prompt and a layer": (
        "llama",
        "PROMPT_TUNING",
        {"num_virtual_tokens": 3, "modules_to_save": ["lm_head"]},
        "modules_to_save=['lm_head']",
    ),
    "prompt without a task": (
        "llama",
        "PROMPT_TUNING",
        {"num_virtual_tokens": 3, "task_type": "FEATURE_EXTRACTION"},
        "task_type='FEATURE_EXTRACTION'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_has_no_counterpart_is_refused_by_name(backbones, tmp_path, case):
    architecture, kind, arguments, said = REFUSED[case]
    made_by_peft(backbones[architecture], tmp_path, kind, **arguments)
    assert said in refused(tmp_path, backbones[architecture])


@pytest.fixture(scope="module")
def lora(backbones, tmp_path_factory):
    """A folder of PEFT's that is imported as it is."""
    folder = tmp_path_factory.mktemp("lora")
    made_by_peft(backbones["llama"], folder, "LORA", **QV)
    import_peft(folder, backbones["llama"])
    return folder


def edited(lora, folder, settings=(), tensors=None):
    """A copy with other settings, or with its tensors changed by a function."""
    shutil.copytree(lora, folder, dirs_exist_ok=True)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **dict(settings)}))
    if tensors is not None:
        weights = folder / "adapter_model.safetensors"
        state = load_file(weights)
        tensors(state)
        save_file(state, weights)
    return folder


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        *(("init_lora_weights", name, f"init_lora_weights={name!r}") for name in ("corda", "loftq", "lora_ga", "new")),
        *(("task_type", name, f"task_type={name!r}") for name in ("SEQ_CLS", "TOKEN_CLS", ["CAUSAL_LM"])),
        *(("r", rank, f"r={rank!r}: expected a whole number") for rank in ("4", True, 0, -1, 4.0, None, 10**30)),
        ("r", 3, "has the shape (4, 32), expected (3, 32)"),
        *(("lora_alpha", alpha, "lora_alpha=") for alpha in ("8", None, False, float("nan"), float("inf"), 10**400)),
        ("use_rslora", "yes", "use_rslora='yes': expected true or false"),
        ("use_rslora", 1, "use_rslora=1: expected true or false"),
        ("target_modules", None, "target_modules=None: expected a list"),
        ("target_modules", ["q_proj", 7], "target_modules=['q_proj', 7]: expected a list"),
        ("target_modules", "(q_proj", "not a regular expression"),
        ("target_modules", ["nothing"], "names no module"),
        ("target_modules", ["q_proj", "k_proj", "v_proj"], "misses 'base_model.model.model.layers.0.self_attn.k_proj"),
        ("target_modules", ["q_proj"], "has no place for 'base_model.model.model.layers.0.self_attn.v_proj"),
        ("adaptbench_targets", ["q"], "adaptbench_targets=['q']: these are other modules"),
        ("adaptbench_targets", "qv", "adaptbench_targets='qv': expected a list"),
        ("adaptbench_targets", ["magic"], "magic"),
        ("target_parameters", ["experts.gate_up_proj"], "target_parameters=['experts.gate_up_proj']"),
        ("use_qalora", True, "use_qalora=True"),
        ("velora_config", {"num_groups": 64}, "velora_config="),
        ("kasa_config", {"beta": 1.0}, "kasa_config="),
        ("monteclora_config", {"num_samples": 8}, "monteclora_config="),
        ("arrow_config", {"top_k": 3}, "arrow_config="),
        ("use_bdlora", {"nblocks": 2}, "use_bdlora="),
        ("megatron_config", {"layers": 2}, "megatron_config="),
        ("ensure_weight_tying", True, "ensure_weight_tying=True"),
        ("a_setting_of_the_future", 0, "a_setting_of_the_future=0"),
        ("a_setting\nof two lines", "a\nb", r"a_setting\nof two lines='a\nb'"),
        ("a_long_setting", "x" * 10_000, "a_long_setting="),
    ],
)
def test_a_setting_that_is_not_understood_is_refused_by_name(backbones, lora, tmp_path, name, value, said):
    message = refused(edited(lora, tmp_path, {name: value}), backbones["llama"])
    assert said in message
    assert len(message) < 600


@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_a_setting_of_the_future_that_is_not_used_changes_nothing(backbones, lora, tmp_path, value):
    import_peft(edited(lora, tmp_path, {"a_setting_of_the_future": value}), backbones["llama"])


@pytest.mark.parametrize("kind", ["LORA", "IA3", "LN_TUNING", "PROMPT_TUNING"])
def test_every_setting_of_the_installed_peft_has_been_decided_on(tmp_path, kind):
    CONFIGS[kind](task_type="CAUSAL_LM").save_pretrained(tmp_path)
    check_settings(json.loads((tmp_path / "adapter_config.json").read_text()))


QUERY = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def _put(name, change):
    def apply(state):
        state[name] = change(state[name]) if name in state else change(torch.ones(3))

    return apply


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (lambda state: state.pop(QUERY), f"misses '{QUERY}'"),
        (
            _put("base_model.model.lm_head.weight", lambda tensor: tensor),
            "has no place for 'base_model.model.lm_head.weight'",
        ),
        (_put("../../../tmp/x", lambda tensor: tensor), "has no place for '../../../tmp/x'"),
        (_put(QUERY, lambda tensor: tensor.index_fill(0, torch.tensor([1]), float("nan"))), "NaN"),
        (_put(QUERY, lambda tensor: tensor.index_fill(0, torch.tensor([1]), float("inf"))), "infinite"),
        (_put(QUERY, lambda tensor: tensor.double() * 1e300), "infinite"),
        (_put(QUERY, lambda tensor: tensor[:, :-1].contiguous()), "has the shape (4, 31), expected (4, 32)"),
        (_put(QUERY, lambda tensor: tensor.flatten()), "has the shape (128,), expected (4, 32)"),
        (_put(QUERY, lambda tensor: tensor.long()), "has torch.int64, expected torch.float32"),
        (_put(QUERY, lambda tensor: tensor.to(torch.float8_e4m3fn)), "has torch.float8_e4m3fn, expected torch.float32"),
    ],
)
def test_a_tensor_that_is_not_understood_is_refused_by_name(backbones, lora, tmp_path, tensors, said):
    assert said in refused(edited(lora, tmp_path, tensors=tensors), backbones["llama"])


def test_a_file_in_half_precision_is_read(backbones, lora, tmp_path):
    def halve(state):
        state.update({name: tensor.bfloat16() for name, tensor in state.items()})

    _, adaptation = import_peft(edited(lora, tmp_path, tensors=halve), backbones["llama"])
    saved = load_file(tmp_path / "adapter_model.safetensors")[QUERY]
    assert torch.equal(adaptation.delta.state_of(0)["model.layers.0.self_attn.q_proj.a"].T, saved.float())


def test_saved_embeddings_are_not_left_out(backbones, lora, tmp_path):
    model = peft.PeftModel.from_pretrained(copy.deepcopy(backbones["llama"].model), lora)
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    assert "embed_tokens.weight" in refused(tmp_path, backbones["llama"])


def test_a_pickle_is_not_opened(backbones, lora, tmp_path):
    model = peft.PeftModel.from_pretrained(copy.deepcopy(backbones["llama"].model), lora)
    model.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "adapter_model.bin").is_file()
    assert "adapter_model.bin is a pickle" in refused(tmp_path, backbones["llama"])


@pytest.mark.parametrize("changed", ["lora_A", "lora_B"])
def test_a_fused_adapter_from_here_is_imported_only_as_it_was_exported(backbones, tmp_path, changed):
    """Its update is block-diagonal; PEFT may train it on into one that is not."""
    backbone = backbones["gpt2"]
    method = LoRA(name="lora", rank=2, targets=["q", "v"])
    export_peft(method, method.prepare(backbone, [0]), tmp_path)
    import_peft(tmp_path, backbone)
    weights = tmp_path / "adapter_model.safetensors"
    save_file({name: tensor + (changed in name) for name, tensor in load_file(weights).items()}, weights)
    if changed == "lora_A":
        import_peft(tmp_path, backbone)
    else:
        assert "lora_B.weight' changes parts of a module" in refused(tmp_path, backbone)


def test_an_adapter_of_another_architecture_is_refused(backbones, lora):
    assert "names no module of t5" in refused(lora, backbones["t5"])


@pytest.fixture(scope="module")
def loaded(model_folders, tmp_path_factory):
    """Load a tiny model of any configuration, with the tokenizer of the others."""

    def load(config):
        folder = tmp_path_factory.mktemp(config.model_type)
        shutil.copytree(model_folders["llama"], folder, dirs_exist_ok=True)
        auto = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        torch.manual_seed(0)
        auto.from_config(config).save_pretrained(folder)
        return load_backbone.__wrapped__(config.model_type, str(folder))

    return load


FUSED = {
    "queries, keys and values of a head together": GPTNeoXConfig,
    "gate and inner map in one": Phi3Config,
}
SIZES = {
    "vocab_size": 400,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("case", FUSED)
def test_however_a_projection_is_fused_peft_computes_what_is_exported(loaded, tmp_path, case):
    backbone = loaded(FUSED[case](**SIZES))
    for method in (LoRA(name="lora", rank=2, alpha=6.0, targets=["q", "v", "ff_in", "ff_out"]), IA3(name="ia3")):
        adaptation, folder = method.prepare(backbone, [0]), tmp_path / method.kind
        torch.manual_seed(5)
        with torch.no_grad():
            for parameter in adaptation.parameters:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        export_peft(method, adaptation, folder)
        theirs = peft.PeftModel.from_pretrained(copy.deepcopy(backbone.model), folder).eval()
        assert_same(backbone, folder, theirs)
        _, again = import_peft(folder, backbone)
        assert all(
            torch.equal(tensor, again.delta.state_of(0)[name]) for name, tensor in adaptation.delta.state_of(0).items()
        )


def test_a_prompt_is_not_exchanged_where_peft_changes_the_words_too(loaded, tmp_path):
    """Marian multiplies the embeddings it looks up; PEFT looks them up itself and does not."""
    config = MarianConfig(
        vocab_size=400, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, pad_token_id=0,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48, scale_embedding=True,
        decoder_start_token_id=2,
    )  # fmt: skip
    backbone = loaded(config)
    made_by_peft(backbone, tmp_path, "PROMPT_TUNING", num_virtual_tokens=3)
    assert "leaves out the 5.66" in refused(tmp_path, backbone)
    method = PromptTuning(name="prompt", virtual_tokens=3, decoder=False)
    with pytest.raises(InputError, match="leaves out the"):
        export_peft(method, method.prepare(backbone, [0]), tmp_path / "from here")
