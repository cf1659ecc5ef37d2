"""Heads answer as transformers' own classes do, train in every parameter, and keep runs apart, under any method."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import (
    AutoModelForQuestionAnswering,
    DebertaV2Model,
    T5EncoderModel,
)
from transformers.models.t5.modeling_t5 import T5ClassificationHead

from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.methods.base import Method, PeftMethod
from adaptbench.models.anatomy import anatomy_of
from adaptbench.models.encoders import hidden_states, pooled
from adaptbench.models.heads import (
    INIT_SCALE,
    ClassificationHead,
    SpanHead,
    classification_head,
    dropout_of,
    start_head,
)
from adaptbench.training.optim import AdamW, RunOptimizer
from tests.methods.roster import DELTAS_UNDER_A_HEAD, UNDER_A_HEAD, VARIANTS, method_on_encoders
from tests.models.bare import doubled, rows_of
from tests.models.classifiers import KNOWN, classifier_of_transformers, made_different

SEEDS = (3, 11, 7)
CLASSES = 3
# Parts that are computed in single precision in a double model, too: DeBERTa's scale, OPT's softmax, Llama's norms.
TOLERANCE = {"deberta_v2": 1e-7, "deberta_v3": 1e-7, "opt": 1e-6, "llama": 1e-5}
ON_THE_WEIGHTS = ("full_ft", "fish_mask", "hf_peft")  # one run at a time
OF_A_LANGUAGE_MODEL = ("zero_shot", "icl", "icl_tuned")  # no gradient that could train a head, or demonstrations


@pytest.fixture
def exact(bare):
    """exact(name): the same bare model in double precision; new parameters are double, too."""
    torch.set_default_dtype(torch.float64)
    yield lambda name: doubled(bare(name))
    torch.set_default_dtype(torch.float32)


def copied(dense, linear, run=0):
    with torch.no_grad():
        dense.weight[run] = linear.weight.T
        dense.bias[run, 0] = 0 if linear.bias is None else linear.bias


@pytest.mark.parametrize("name", KNOWN)
@pytest.mark.parametrize("classes", [1, 4])
def test_scores_equal_those_of_transformers_for_the_same_weights(exact, name, classes):
    """Texts and pairs, each of two runs."""
    encoder = exact(name)
    head = made_different(encoder, classification_head(encoder, 2, classes))
    source, mask, types = rows_of(encoder)
    kinds = {"token_type_ids": types} if encoder.token_types else {}
    with torch.no_grad():
        ours = head(pooled(encoder, source, mask, types).expand(2, -1, -1))
        assert ours.shape == (2, len(source), classes)
        for run in range(2):
            own = classifier_of_transformers(encoder, head, run)
            theirs = own(input_ids=source, attention_mask=mask.long(), **kinds).logits
            assert (ours[run] - theirs).abs().max() < TOLERANCE.get(name, 1e-10)
    assert (ours[0] - ours[1]).abs().max() > 0.1
    assert ours.std(1).min() > 0.05


def test_a_t5s_scores_are_those_of_its_own_head_on_the_mean_of_its_encoders_states(exact):
    """The library's classifier reads the text with the decoder as well; here the encoder alone does."""
    encoder = exact("t5")
    source, mask, types = rows_of(encoder)
    config = copy.deepcopy(encoder.model.config)
    config.num_labels = CLASSES
    theirs = T5ClassificationHead(config).eval()
    head = classification_head(encoder, 1, CLASSES)
    copied(head.dense, theirs.dense)
    copied(head.project, theirs.out_proj)
    own = T5EncoderModel.from_pretrained(encoder.model.config._name_or_path).double().eval()
    with torch.no_grad():
        ours = head(pooled(encoder, source, mask, types)[None])[0]
        for row, length in enumerate(mask.sum(1).tolist()):
            mean = own(input_ids=source[row : row + 1, :length]).last_hidden_state.mean(1)
            assert (ours[row] - theirs(mean)[0]).abs().max() < 1e-6


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta_v2", "gpt2"])
def test_span_scores_equal_those_of_transformers_for_the_same_weights(exact, name):
    encoder = exact(name)
    path = encoder.model.config._name_or_path
    own = AutoModelForQuestionAnswering.from_pretrained(path, attn_implementation="eager").double().eval()
    head = SpanHead(1, encoder.width)
    copied(head.project, own.qa_outputs)
    source, mask, types = rows_of(encoder)
    kinds = {"token_type_ids": types} if encoder.token_types else {}
    with torch.no_grad():
        ours = head(hidden_states(encoder, source, mask, types).flatten(0, 1)[None]).view(*source.shape, 2)
        theirs = own(input_ids=source, attention_mask=mask.long(), **kinds)
    for column, logits in enumerate((theirs.start_logits, theirs.end_logits)):
        assert (ours[..., column] - logits)[mask].abs().max() < TOLERANCE.get(name, 1e-10)


@pytest.mark.parametrize("name", ["bert", "roberta", "t5", "llama"])
def test_virtual_tokens_do_not_move_the_place_of_a_text(exact, name):
    """Pooled states under prompt tuning are those of [vectors; embeddings], read at the text's own tokens."""
    encoder = exact(name)
    adaptation = VARIANTS["prompt"].prepare(encoder, [3])
    virtual = adaptation.backbone.virtual_tokens
    (vectors,) = adaptation.parameters
    with adaptation.attached(), torch.no_grad():
        rows = rows_of(adaptation.backbone)
        ours = pooled(adaptation.backbone, *rows)
    source, mask, types = rows_of(encoder)
    assert rows[0].shape[1] == source.shape[1] + virtual == source.shape[1] + 3
    embed = encoder.model.get_input_embeddings()
    for row, length in enumerate(mask.sum(1).tolist()):
        embeddings = torch.cat([vectors[0], embed(source[row, :length])])[None]
        kinds = torch.cat([torch.zeros(virtual, dtype=torch.long), types[row, :length]])[None]
        more = {"token_type_ids": kinds} if name == "bert" else {}
        with torch.no_grad():
            states = encoder.model(inputs_embeds=embeddings, **more).last_hidden_state[0, virtual:]
        expected = {"first": states[0], "last": states[-1], "mean": states.mean(0)}[encoder.pooling]
        assert (ours[row] - expected).abs().max() < 1e-6


def losses_of(adaptation, head, rows, labels, runs):
    """(R,) cross-entropy of every run's own rows."""
    scores = head(pooled(adaptation.backbone, *rows).unflatten(0, (runs, -1)))
    return cross_entropy(scores.flatten(0, 1), labels, reduction="none").view(runs, -1).mean(1)


def trained(method, encoder, seeds, steps=2):
    """Delta and head after some steps; run r reads two rows of its own, chosen by its seed."""
    adaptation = method.prepare(encoder, seeds)
    head = start_head(adaptation.backbone, ClassificationHead(len(seeds), encoder.width, CLASSES), seeds)
    parameters = [*adaptation.parameters, *head.parameters()]
    optimizer = RunOptimizer(parameters, AdamW(), len(seeds))
    chosen = [(seed + k) % 6 for seed in seeds for k in range(2)]
    rows = [tensor[chosen] for tensor in rows_of(adaptation.backbone)]
    labels = torch.tensor([index % CLASSES for index in chosen])
    seen = torch.zeros(len(parameters), len(seeds), dtype=torch.bool)
    with adaptation.attached():
        for _ in range(steps):
            optimizer.zero_grad()
            losses_of(adaptation, head.pieces["head"], rows, labels, len(seeds)).sum().backward()
            seen |= torch.stack([p.grad.flatten(1).any(1) for p in parameters])
            optimizer.step(0.01, 1.0, torch.ones(len(seeds), dtype=torch.bool))
        with torch.no_grad():
            losses = losses_of(adaptation, head.pieces["head"], rows, labels, len(seeds))
    return adaptation, head, seen, losses


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta_v3"])
@pytest.mark.parametrize("variant", [*VARIANTS, *DELTAS_UNDER_A_HEAD])
def test_fused_runs_under_a_head_equal_separate_runs_and_all_of_them_learns(exact, name, variant):
    if variant in UNDER_A_HEAD and name == "deberta_v3":
        pytest.skip("refused: test_unipelt_paper.py")
    encoder, method = exact(name), method_on_encoders(variant)
    steps = 4 if variant == "intrinsic_said" else 2  # there the first step moves part of it only
    fused, head, seen, losses = trained(method, encoder, SEEDS, steps)
    assert seen.all(), [n for n, ok in zip(fused.delta.state_of(0), seen.tolist(), strict=False) if not all(ok)]
    for run, seed in enumerate(SEEDS):
        alone, own_head, _, own = trained(method, encoder, [seed], steps)
        assert own[0].item() == pytest.approx(losses[run].item(), rel=1e-7)
        for mine, other in ((head, own_head), (fused.delta, alone.delta)):
            for key, value in other.state_of(0).items():
                if not key.endswith(
                    (".key.bias", ".key_proj.bias", ".seed")
                ):  # softmax ignores a key's bias: its gradient is noise
                    assert (mine.state_of(run)[key] - value).abs().max() < 1e-6, key


@pytest.mark.parametrize("name", ["bert", "t5", "deberta_v3"])
@pytest.mark.parametrize("kind", ON_THE_WEIGHTS)
def test_methods_on_the_weights_train_under_a_head(exact, kind, name):
    if kind == "hf_peft":
        pytest.importorskip("peft")
    encoder = exact(name)
    adaptation = METHODS[kind](name=kind).prepare(encoder, [3])
    head = start_head(adaptation.backbone, ClassificationHead(1, encoder.width, CLASSES), [3])
    rows, labels = rows_of(adaptation.backbone), torch.arange(6) % CLASSES
    with adaptation.attached():
        losses_of(adaptation, head.pieces["head"], rows, labels, 1).sum().backward()
    assert all(parameter.grad is not None for parameter in head.parameters())
    assert sum(parameter.grad is not None and bool(parameter.grad.any()) for parameter in adaptation.parameters) >= 4


def test_tokens_that_peft_puts_before_a_text_are_refused(bare):
    pytest.importorskip("peft")
    method = METHODS["hf_peft"](name="x", peft_type="PROMPT_TUNING", arguments={"num_virtual_tokens": 3})
    with pytest.raises(InputError, match=r"PROMPT_TUNING.*puts tokens before a text"):
        method.prepare(bare("bert"), [0])


def test_every_method_is_tried_here_or_makes_no_sense_without_a_language_model_head():
    tried = {method.kind for method in VARIANTS.values()} | {*ON_THE_WEIGHTS, *UNDER_A_HEAD}
    assert tried | set(OF_A_LANGUAGE_MODEL) == set(METHODS)
    assert not tried & set(OF_A_LANGUAGE_MODEL)
    assert {kind for kind, method in METHODS.items() if issubclass(method, PeftMethod) and method.fuses} < tried
    assert all(issubclass(METHODS[kind], Method) for kind in tried)


def test_a_prefix_on_a_model_that_computes_attention_by_itself_is_refused_by_name(bare):
    with pytest.raises(InputError, match="method=prefix: falcon computes attention in its own code"):
        VARIANTS["prefix"].prepare(bare("falcon_7b"), [0])
    own = DebertaV2Model(bare("deberta_v3").model.config)  # not loaded here, so its attention is the library's
    with pytest.raises(InputError, match="method=prefix: deberta-v2 computes attention in its own code"):
        VARIANTS["prefix"].build(anatomy_of(own), 1)
    assert own.state_dict().keys() == bare("deberta_v3").model.state_dict().keys()


def test_a_run_starts_the_same_in_any_company_and_apart_from_its_method(bare):
    encoder = bare("bert")
    (fused, alone) = (
        start_head(encoder, ClassificationHead(len(seeds), encoder.width, CLASSES), seeds) for seeds in (SEEDS, [11])
    )
    states = fused.state_of(1), alone.state_of(0)
    assert states[0].keys() == {f"head.{part}.{kind}" for part in ("dense", "project") for kind in ("weight", "bias")}
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[1])
    assert not torch.equal(fused.state_of(0)["head.dense.weight"], fused.state_of(1)["head.dense.weight"])
    weight = fused.state_of(0)["head.dense.weight"]
    assert weight.std().item() == pytest.approx(INIT_SCALE, rel=0.1)
    assert not fused.state_of(0)["head.dense.bias"].any()
    first = torch.randn(4, generator=torch.Generator().manual_seed(SEEDS[0])) * INIT_SCALE
    assert (weight.flatten()[:4] - first).abs().max() > 1e-3


def test_a_head_is_stored_and_loaded_like_any_delta(bare, tmp_path):
    encoder = bare("bert")
    head = start_head(encoder, SpanHead(2, encoder.width), [1, 2])
    assert head.parameters_per_run == 2 * encoder.width + 2
    other = start_head(encoder, SpanHead(1, encoder.width), [9])
    other.load_state_of(0, head.state_of(1))
    states = torch.randn(1, 5, encoder.width)
    assert torch.equal(other.pieces["head"](states)[0], head.pieces["head"](states.expand(2, -1, -1))[1])


def test_dropout_is_there_in_training_only_and_differs_from_run_to_run():
    head = ClassificationHead(2, 400, 2, dropout=0.25)
    with torch.no_grad():
        head.dense.weight.copy_(torch.eye(400))
        head.project.weight.fill_(1e-3)
    states = torch.ones(2, 3, 400)
    still = head(states)
    assert torch.equal(still[0], still[1])
    head.train()
    drawn = head(states)
    assert not torch.equal(drawn[0], drawn[1])
    many = torch.stack([head(states)[0, 0, 0] for _ in range(50)])
    expected = 0.75 * torch.tensor(1 / 0.75).tanh() * 0.4  # first drop before tanh, second keeps the mean
    assert many.mean().item() == pytest.approx(expected.item(), rel=0.03)


def test_dropout_is_the_models_own(bare):
    config = copy.deepcopy(bare("bert").model.config)
    config.update({"classifier_dropout": None, "hidden_dropout_prob": 0.1})
    model = copy.copy(bare("bert").model)
    model.config = config
    assert dropout_of(replace(bare("bert"), model=model)) == 0.1
    config.update({"classifier_dropout": 0.3})
    assert dropout_of(replace(bare("bert"), model=model)) == 0.3
    for name in ("llama", "gpt2"):  # the library's classifiers of decoders drop nothing
        assert dropout_of(bare(name)) == 0.0
    config = copy.deepcopy(bare("deberta_v3").model.config)
    config.update({"cls_dropout": 0.2, "hidden_dropout_prob": 0.1})
    model = copy.copy(bare("deberta_v3").model)
    model.config = config
    assert dropout_of(replace(bare("deberta_v3"), model=model)) == 0.2


def test_half_precision_states_are_scored_in_single_precision():
    head = ClassificationHead(1, 8, 2)
    assert head(torch.randn(1, 3, 8, dtype=torch.bfloat16)).dtype == torch.float32


def test_a_head_without_storage_has_shapes(bare):
    meta = bare("bert").on_meta()
    head = start_head(meta, ClassificationHead(1, meta.width, CLASSES), [0])
    states = pooled(meta, *(tensor.to("meta") for tensor in rows_of(bare("bert"))))
    assert head.pieces["head"](states[None]).shape == (1, 6, CLASSES)
