"""Bare models compute what transformers' own do, whatever side a row is padded on, and methods find their parts."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSeq2SeqLM

from adaptbench.errors import InputError
from adaptbench.models.anatomy import anatomy_of
from adaptbench.models.attention import IMPLEMENTATION
from adaptbench.models.encoders import hidden_states, load_encoder, meta_encoder, pooled
from tests.models.architectures import DECODERS, ENCODER_DECODERS, SETTINGS
from tests.models.bare import DEBERTA, PAIRS, WITH_DECODER_KEPT, rows_of, save_bare

READERS = ("bert", "roberta", *DEBERTA, *(name for name in SETTINGS if name not in WITH_DECODER_KEPT))
OF_EACH_KIND = ("bert", "roberta", *DEBERTA, "t5", "llama", "gpt2", "opt", "falcon_rw", "bloom", "mistral_windows")


def on_the_left(source, mask, types, more=3):
    """The same rows, padded on the left and with more padding."""
    n, width = source.shape
    moved = [torch.zeros(n, width + more, dtype=tensor.dtype) for tensor in (source, mask, types)]
    for row in range(n):
        length = int(mask[row].sum())
        for tensor, old in zip(moved, (source, mask, types), strict=True):
            tensor[row, width + more - length :] = old[row, :length]
    return moved


@pytest.mark.parametrize("name", READERS)
def test_states_are_those_of_transformers_for_a_row_alone(bare, name):
    encoder = bare(name)
    source, mask, types = rows_of(encoder)
    auto = type(encoder.model)
    # Falcon's eager attention adds ALiBi to a mask that has it already (transformers 5.23); its default does not.
    attention = "sdpa" if name.startswith("falcon") else "eager"
    own = auto.from_pretrained(encoder.model.config._name_or_path, attn_implementation=attention).eval()
    with torch.no_grad():
        ours = hidden_states(encoder, source, mask, types)
        for row, length in enumerate(mask.sum(1).tolist()):
            kinds = {"token_type_ids": types[row : row + 1, :length]} if encoder.token_types else {}
            theirs = own(input_ids=source[row : row + 1, :length], **kinds).last_hidden_state[0]
            assert (ours[row, :length] - theirs).abs().max() < 2e-5 * theirs.abs().max().clamp(min=1)


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_padding_changes_nothing_on_either_side(bare, name):
    encoder = bare(name)
    source, mask, types = rows_of(encoder)
    shifted = on_the_left(source, mask, types)
    with torch.no_grad():
        states, moved = hidden_states(encoder, source, mask, types), hidden_states(encoder, *shifted)
        means, others = pooled(encoder, source, mask, types), pooled(encoder, *shifted)
        alone = torch.cat(
            [
                pooled(encoder, source[n : n + 1, :length], mask[n : n + 1, :length], types[n : n + 1, :length])
                for n, length in enumerate(mask.sum(1).tolist())
            ]
        )
    assert (states[mask] - moved[shifted[1]]).abs().max() < 1e-4
    assert (means - others).abs().max() < 1e-4
    assert (means - alone).abs().max() < 1e-4
    assert (means[0] - means[1]).abs().max() > 1e-2


def test_a_text_is_its_first_token_its_last_or_the_mean_of_all(bare):
    for name, expected in {"bert": "first", "roberta": "first", "t5": "mean", "umt5": "mean", "gpt2": "last"}.items():
        encoder = bare(name)
        assert encoder.pooling == expected
        source, mask, types = rows_of(encoder)
        states = hidden_states(encoder, source, mask, types)
        own = [row[:length] for row, length in zip(states, mask.sum(1).tolist(), strict=True)]
        by_hand = {"first": [r[0] for r in own], "last": [r[-1] for r in own], "mean": [r.mean(0) for r in own]}
        assert (pooled(encoder, source, mask, types) - torch.stack(by_hand[expected])).abs().max() < 1e-5


@pytest.mark.parametrize("name", READERS)
def test_parts_of_a_bare_model_are_those_under_a_head(bare, name):
    """Same roles, sizes and order; a path is shorter by the body's name."""
    encoder = bare(name)
    config = AutoConfig.from_pretrained(encoder.model.config._name_or_path)
    if name in ENCODER_DECODERS:
        auto = AutoModelForSeq2SeqLM
    else:
        auto = AutoModelForCausalLM if name in DECODERS else AutoModelForMaskedLM
    whole = anatomy_of(auto.from_config(config))
    mine = encoder.anatomy
    for kind in ("linears", "sublayers", "attentions", "norms", "embeddings"):
        expected = [site for site in getattr(whole, kind) if "decoder." not in site.path or name in DECODERS]
        if kind == "embeddings":
            expected = expected[:1]
        found = getattr(mine, kind)
        assert found
        for site, other in zip(found, expected, strict=True):
            assert other.path.endswith(site.path)
            assert {**vars(site), "path": ""} == {**vars(other), "path": ""}
            encoder.model.get_submodule(site.path)


@pytest.mark.parametrize("name", OF_EACH_KIND)
def test_a_model_without_storage_has_the_same_shapes(bare, name):
    encoder = bare(name)
    source, mask, types = rows_of(encoder)
    meta = encoder.on_meta()
    states = pooled(meta, *(tensor.to("meta") for tensor in (source, mask, types)))
    assert states.shape == (len(PAIRS), encoder.width) == pooled(encoder, source, mask, types).shape
    assert meta.parameters_total == encoder.parameters_total
    published = meta_encoder(name, encoder.model.config._name_or_path)
    assert published.parameters_total == encoder.parameters_total
    assert published.device.type == "meta"


def test_a_published_shape_has_its_published_size():
    """RoBERTa-base with its pooler has 124,645,632 parameters; the pooler is a map of 768 by 768 with biases."""
    shape = {
        "model_type": "roberta", "vocab_size": 50265, "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12, "max_position_embeddings": 514, "type_vocab_size": 1,
    }  # fmt: skip
    encoder = meta_encoder("roberta_base", "", shape=shape)
    assert encoder.parameters_total == 124_645_632 - (768 * 768 + 768)
    assert (encoder.pooling, encoder.width, encoder.token_types) == ("first", 768, 0)


def test_no_head_and_no_pooler_is_loaded_and_nothing_is_trainable(bare):
    names = [name for name, _ in bare("bert").model.named_parameters()]
    assert not [name for name in names if "pooler" in name or name.startswith(("cls", "lm_head"))]
    assert not [name for name, _ in bare("t5").model.named_parameters() if "decoder" in name]
    for name in OF_EACH_KIND:
        model = bare(name).model
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        ours = name not in ("falcon_rw", "bloom", *DEBERTA)  # these compute attention in their own code
        assert (model.config._attn_implementation == IMPLEMENTATION) == ours


def test_roberta_has_as_many_tokens_as_positions_after_the_padding_token(tmp_path):
    folder = str(save_bare("roberta", tmp_path, max_position_embeddings=20, pad_token_id=0))
    assert load_encoder.__wrapped__("tiny", folder).max_length == 19
    with pytest.raises(InputError, match="max_length=20: this roberta has 19 positions"):
        load_encoder.__wrapped__("tiny", folder, max_length=20)


@pytest.mark.parametrize("name", ["bart", "marian"])
def test_an_encoder_decoder_that_is_no_t5_is_refused(tmp_path, name):
    with pytest.raises(InputError, match=rf"model.path=.*type '{name}' cannot be read without .* t5"):
        load_encoder.__wrapped__("tiny", str(save_bare(name, tmp_path)))


def test_unknown_models_and_bert_as_a_decoder_are_refused(tmp_path):
    AutoModel.from_config(AutoConfig.for_model("distilbert", dim=32, n_layers=1, n_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="type 'distilbert' cannot be read without a language model head here"):
        load_encoder.__wrapped__("tiny", str(tmp_path))
    save_bare("bert", tmp_path, is_decoder=True)
    with pytest.raises(InputError, match=r"is_decoder=true in config\.json .* left to right"):
        load_encoder.__wrapped__("tiny", str(tmp_path))
    with pytest.raises(InputError, match="model=x: a model of type 'bart'"):
        meta_encoder("x", "", shape={"model_type": "bart"})


def test_files_without_all_weights_are_refused_and_those_of_a_head_are_not_missed(tmp_path, capfd):
    folder = save_bare("bert", tmp_path)
    weights = load_file(folder / "model.safetensors")
    capfd.readouterr()
    load_encoder.__wrapped__("tiny", str(folder))
    assert "UNEXPECTED" not in capfd.readouterr().err
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"no weights for encoder\.layer\.1\.output\.dense\.weight"):
        load_encoder.__wrapped__("tiny", str(folder))


def test_t5_is_refused_in_float16_and_half_precision_loads(tmp_path):
    folder = str(save_bare("t5", tmp_path))
    with pytest.raises(InputError, match="T5 overflows in float16"):
        load_encoder.__wrapped__("tiny", folder, dtype="float16")
    encoder = load_encoder.__wrapped__("tiny", folder, dtype="bfloat16")
    states = pooled(encoder, *rows_of(encoder))
    assert states.dtype == torch.bfloat16
    assert states.isfinite().all()
