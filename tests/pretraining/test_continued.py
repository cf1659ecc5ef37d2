"""Continued pre-training from the command line: what is trained, what is written, and what a kill changes (nothing)."""

import json
import math
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from adaptbench.models.backbone import load_backbone
from adaptbench.models.encoders import hidden_states, load_encoder
from adaptbench.pretraining import continued
from adaptbench.pretraining.continued import Reading, load_start
from adaptbench.pretraining.corpora import Corpus, cut, read_corpus
from adaptbench.pretraining.loop import accumulate
from adaptbench.pretraining.provenance import pretraining_of
from adaptbench.schema import Config, ModelConfig, PretrainRecipe
from experiments import pretrain
from tests.models.bare import save_bare
from tests.pretraining.conftest import TAPT, provenance, sentences


def test_a_killed_training_continues_to_the_very_same_model(call, monkeypatch, tmp_path):
    assert call("recipes.tapt.output=straight") == 0
    passes = Reading.passes

    def killed(self, step):
        if step == 9:
            raise KeyboardInterrupt
        return passes(self, step)

    monkeypatch.setattr(Reading, "passes", killed)
    with pytest.raises(KeyboardInterrupt):
        call("checkpoint_minutes=0")
    monkeypatch.setattr(Reading, "passes", passes)
    assert not TAPT.exists()
    (checkpoint,) = (tmp_path / "outputs/pretrain").iterdir()
    assert torch.load(checkpoint, weights_only=True)["state"]["step"] == 9
    assert call() == 0
    assert not checkpoint.exists()
    straight, resumed = provenance(tmp_path / "straight"), provenance()
    assert straight["sha256"] == resumed["sha256"]
    assert straight["final_loss"] == resumed["final_loss"]
    for bill in (straight["bill"], resumed["bill"]):
        assert bill.pop("seconds") > 0
    assert straight["bill"] == resumed["bill"]


def test_a_training_is_not_repeated_after_a_kill_while_its_model_is_written(call, monkeypatch, capsys):
    assert call("recipes.tapt.output=earlier") == 0
    before = {file.name: file.read_bytes() for file in Path("earlier").iterdir()}

    def killed(*_):
        raise KeyboardInterrupt

    for what in ("continued.bill", "continued._save", "output.sync"):
        with monkeypatch.context() as patched:
            patched.setattr(f"adaptbench.pretraining.{what}", killed)
            with pytest.raises(KeyboardInterrupt):
                call("recipes.tapt.output=earlier", "seed=1")
        assert {file.name: file.read_bytes() for file in Path("earlier").iterdir()} == before
    monkeypatch.setattr("adaptbench.pretraining.loop.accumulate", lambda *_: 1 / 0)
    assert call("recipes.tapt.output=earlier", "seed=1") == 0
    said = provenance(Path("earlier"))
    assert said["seed"] == 1
    assert said["sha256"] != json.loads(before["provenance.json"])["sha256"]
    assert not list(Path("outputs/pretrain").iterdir())
    assert "tapt: read 38 texts, left out 2 as held-out rows of runs" in capsys.readouterr().out


def test_a_checkpoint_that_cannot_be_read_is_named(call, capsys):
    file = Path("outputs/pretrain/tapt_local_tapt_files_classification.pt")
    file.parent.mkdir(parents=True)
    for content in (b"", b"PK\x03\x04 cut short"):
        file.write_bytes(content)
        assert call() == 2
        (error,) = capsys.readouterr().err.strip().splitlines()
        assert error.startswith(f"error: {file}: no checkpoint that can be read (")
    torch.save({"question": {}}, file)
    assert call() == 2
    assert "nothing of state, model, optimizer in it" in capsys.readouterr().err


def test_the_command_of_a_provenance_makes_the_same_model_again(call, monkeypatch):
    given = ["++recipes.tapt.mask=0.3", "seed=3", "autocast=true", "pretrained=elsewhere", "recipes.dapt.length=9"]
    assert call(*given, "checkpoints=unfinished", "recipes.tapt.epochs=1") == 0
    folder = Path("elsewhere") / TAPT.name
    said = provenance(folder)
    assert not any(word in said["command"] for word in ("recipes.dapt", "checkpoints"))
    shutil.rmtree(folder)
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["pretrain", *shlex.split(said["command"])[3:]])
    pretrain.main()
    again = provenance(folder)
    for what in ("sha256", "command", "corpus", "seed", "autocast_bfloat16"):
        assert again[what] == said[what]


@pytest.mark.parametrize(
    ("holds", "says"),
    [
        (["model-of-mine.safetensors"], "holds files and no provenance.json"),
        (["provenance.json", "other.safetensors"], None),
    ],
)
def test_an_output_folder_with_other_weights(call, capsys, monkeypatch, holds, says):
    Path("here").mkdir()
    for name in holds:
        (Path("here") / name).write_text("{}")
    if says:
        monkeypatch.setattr("adaptbench.pretraining.loop.train", lambda *_: 1 / 0)
        assert call("recipes.tapt.output=here") == 2
        assert says in capsys.readouterr().err
        assert [file.name for file in Path("here").iterdir()] == holds
    else:
        assert call("recipes.tapt.output=here", "recipes.tapt.epochs=1") == 0
        assert provenance(Path("here"))["model"] == "tapt"
        assert [file.name for file in Path("here").glob("*.safetensors")] == ["model.safetensors"]
        assert Path("here.earlier/other.safetensors").exists()
        assert "here.earlier" in capsys.readouterr().out


def test_another_seed_corpus_or_start_is_another_training(call, tmp_path):
    hashes = []
    for name, overrides in {
        "a": (), "b": (), "seed": ("seed=1",), "corpus": ("recipes.tapt.column=text", "recipes.tapt.length=12"),
    }.items():  # fmt: skip
        assert call(f"recipes.tapt.output={name}", "recipes.tapt.epochs=1", *overrides) == 0
        hashes.append(provenance(tmp_path / name)["sha256"])
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


def test_the_folder_loads_for_encoder_tasks_and_for_masked_language_modelling(call):
    assert call() == 0
    encoder = load_encoder.__wrapped__("tapt", str(TAPT), device="cpu")
    masked, found = AutoModelForMaskedLM.from_pretrained(TAPT, output_loading_info=True)
    assert not found["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(TAPT)
    ids = torch.tensor([tokenizer("the cat sat")["input_ids"]])
    whole = torch.ones_like(ids)
    with torch.no_grad():
        states = masked.base_model(input_ids=ids, attention_mask=whole).last_hidden_state
        assert torch.allclose(hidden_states(encoder, ids, whole.bool()), states, atol=1e-5)


def test_every_weight_was_trained(call, bert):
    assert call() == 0
    before, after = load_file(bert / "model.safetensors"), load_file(TAPT / "model.safetensors")
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert not same


def test_a_start_without_a_head_gets_a_new_one_and_says_so(call, bert, tmp_path):
    assert call() == 0
    assert provenance()["head"] == "the start's"
    AutoModel.from_pretrained(bert).save_pretrained(tmp_path / "bare")
    AutoTokenizer.from_pretrained(bert).save_pretrained(tmp_path / "bare")
    assert call("recipes.tapt.output=once", start=tmp_path / "bare") == 0
    said = provenance(tmp_path / "once")
    assert said["head"] == "new"
    assert call("recipes.tapt.output=twice", start=tmp_path / "once") == 0
    again = provenance(tmp_path / "twice")
    assert again["head"] == "the start's"
    assert again["start"]["pretraining"] == pretraining_of(str(tmp_path / "once"))
    assert again["start"]["pretraining"]["flops"] == said["bill"]["flops"]


def test_what_was_read_is_billed(call, rows):
    assert call() == 0
    said, bill = provenance(), provenance()["bill"]
    assert said["objective"] == "mlm"
    assert said["corpus"]["texts"] == 38
    assert said["corpus"]["left_out"] == 2
    assert bill["rows"] == 3 * said["corpus"]["blocks"]
    assert bill["tokens"] == 3 * said["corpus"]["tokens"]
    assert bill["steps"] == said["steps"] == 3 * math.ceil(said["corpus"]["blocks"] / 8)
    own = [file for file in TAPT.iterdir() if file.name not in ("provenance.json", "corpus.sha256")]
    assert bill["storage_bytes"] == sum(file.stat().st_size for file in own)
    assert bill["memory_peak_bytes"] > 16 * said["parameters"]
    assert "models=[tapt] recipes.tapt.start=local" in said["command"]
    assert pretraining_of(str(TAPT)) == {
        "objective": "mlm",
        "start": "local",
        "sha256": said["sha256"],
        "corpus": ["files_classification"],
        "corpus_sha256": said["corpus"]["sha256"],
        "column": None,
        "left_out": 2,
        "left_out_sha256": said["corpus"]["left_out_sha256"],
        "made_for": [
            {"dataset": "files_classification", "seeds": [42, 1024, 0, 1, 32], "shots": 4, "development": None}
        ],
        "digests_sha256": said["corpus"]["digests_sha256"],
        **{name: bill[name] for name in ("flops", "seconds", "storage_bytes", "tokens")},
        "before": None,
    }


@pytest.mark.parametrize("path", ["microworld:micro_t0", "someone/some-model", "outputs/nowhere"])
def test_other_models_have_no_such_bill(path):
    assert pretraining_of(path) is None


def test_a_folder_with_a_provenance_of_another_kind_has_none(tmp_path):
    (tmp_path / "provenance.json").write_text(json.dumps({"gguf": "a.gguf", "sha256": "0"}))
    assert pretraining_of(str(tmp_path)) is None


def test_training_lowers_the_loss_of_a_random_model(call, monkeypatch):
    losses: list[float] = []

    def kept(trainee, step, work, autocast):
        losses.append(accumulate(trainee, step, work, autocast))
        return losses[-1]

    monkeypatch.setattr("adaptbench.pretraining.loop.accumulate", kept)
    assert call("recipes.tapt.epochs=12", "recipes.tapt.lr=3e-3") == 0
    assert np.mean(losses[:5]) > np.mean(losses[-10:]) + 1


def test_a_decoder_learns_to_continue_a_domains_files(call, tmp_path):
    (tmp_path / "domain.txt").write_text("\n".join(sentences(30)))
    given = ["models=[dapt]", "recipes.dapt.start=micro_gpt_s", "recipes.dapt.files=[domain.txt]"]
    sizes = ["steps=4", "batch=4", "length=16", "rows_per_pass=2", "lr=1e-3"]
    assert call(*given, *(f"recipes.dapt.{size}" for size in sizes)) == 0
    folder = tmp_path / "outputs/pretrained/micro_gpt_s_dapt"
    said = provenance(folder)
    assert said["objective"] == "clm"
    assert said["corpus"]["names"] == ["domain.txt"]
    assert said["bill"]["steps"] == 4
    assert said["bill"]["predicted_tokens"] == said["bill"]["tokens"] - said["bill"]["rows"]
    assert load_backbone.__wrapped__("dapt", str(folder), device="cpu").model.num_parameters() == said["parameters"]
    assert not AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)[1]["missing_keys"]


def test_passes_of_some_rows_add_up_to_the_batch(tmp_path, rows):
    start, blocks = {}, {}
    gradients = {}
    for size in (None, 3):
        folder = save_bare("bert", tmp_path / f"bert{size}")  # without dropout, which is drawn pass by pass
        recipe = PretrainRecipe(kind="continued", start="toy", lr=1e-3, batch=8, rows_per_pass=size, length=16)
        config = Config(model=ModelConfig(name="toy", path=str(folder)), device="cpu")
        start[size] = load_start("toy", recipe, config, seed=0)
        corpus = Corpus(("toy",), sentences(20))
        blocks[size] = cut(corpus, start[size].tokenizer, 16, packed=False, causal=False)
        passes = Reading(start[size], blocks[size], recipe, 0).passes(1)
        assert len(passes) == (1 if size is None else 3)
        sum(part.loss() for part in passes).backward()
        work = [part.work for part in passes]
        gradients[size] = [parameter.grad for parameter in start[size].model.parameters()]
        assert sum(part["tokens"] for part in work) == sum(len(row) for row in blocks[size].batch(0, 1, 8))
    for one, other in zip(gradients[None], gradients[3], strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_batch_and_its_masks_are_a_function_of_seed_and_step(bert):
    recipe = PretrainRecipe(kind="continued", start="toy", lr=1e-3, batch=8, length=16)
    config = Config(model=ModelConfig(name="toy", path=str(bert)), device="cpu")
    start = load_start("toy", recipe, config, seed=0)
    corpus = Corpus(("toy",), sentences(8))
    blocks = cut(corpus, start.tokenizer, 16, packed=False, causal=False)

    def loss(step: int, seed: int = 0) -> float:
        (part,) = Reading(start, blocks, recipe, seed).passes(step)
        return part.loss().item()

    first = loss(0)
    assert loss(0) == first  # dropout and masks again
    steps = blocks.steps_of_an_epoch(8)
    assert len({first, loss(steps), loss(2 * steps), loss(0, seed=1)}) == 4  # every epoch is masked anew


def test_no_evaluated_text_is_read(call, rows, monkeypatch):
    read = []

    def kept(*given):
        read.append(read_corpus(*given))
        return read[-1]

    monkeypatch.setattr(continued, "read_corpus", kept)
    assert call("recipes.tapt.epochs=1") == 0
    train, evaluation = ([json.loads(line)["text"] for line in file.read_text().splitlines()] for file in rows)
    assert read[0].texts == train[:38]
    assert not set(read[0].texts) & set(evaluation)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["recipes.tapt.corpus=nowhere"], "Could not find 'dataset/nowhere'"),
        (["recipes.tapt.start=nowhere"], "Could not find 'model/nowhere'"),
        (["recipes.tapt.corpus=[]"], "expected one of corpus=[<a data set of conf/dataset>], files=[<path>] and hub"),
        (["recipes.tapt.files=[a.txt]"], "expected one of corpus="),
        (["recipes.tapt.column=words"], "no text column 'words' (columns: text, label, id)"),
        (["recipes.tapt.steps=5"], "recipes.tapt: expected steps or epochs, found steps=5 and epochs=3.0"),
        (["recipes.tapt.epochs=null"], "recipes.tapt: expected steps or epochs, found neither"),
        (["recipes.tapt.length=200"], "recipes.tapt.length=200: local reads at most 128 tokens"),
        (["recipes.tapt.objective=lm"], "recipes.tapt.objective='lm': expected one of mlm, clm"),
        (["recipes.tapt.objective=clm"], "bert reads in both directions, expected mlm"),
        (["recipes.tapt.schedule=constant"], "recipes.tapt.schedule='constant': expected one of cosine, linear"),
        (["recipes.tapt.mask=1.5"], "recipes.tapt.mask=1.5: expected at most 1"),
        (["recipes.tapt.batch=0"], "recipes.tapt.batch=0: expected more than 0"),
        (["recipes.tapt.output=train.jsonl"], "is a file, expected a folder"),
        (["recipes.tapt.corpus=[]", "recipes.tapt.files=[none.txt]"], "files='none.txt': no such file"),
        (["recipes.tapt.corpus=[]", "recipes.tapt.files=[empty.txt]"], "empty.txt: the corpus is empty: no text"),
        (["recipes.tapt.lr=1e30"], "expected a lower rate"),
    ],
)
def test_what_is_wrong_is_one_clear_line(call, capsys, tmp_path, overrides, says):
    (tmp_path / "empty.txt").write_text("\n\n")
    assert call(*overrides) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert says in error[-1]
    assert error[-1].startswith("error: ")
    assert not TAPT.exists()


@pytest.mark.parametrize(
    ("model", "overrides", "says"),
    [
        ("t5", [], "t5 is an encoder-decoder, expected an encoder or a decoder-only model"),
        ("llama", ["recipes.tapt.objective=mlm"], "needs a mask token, and llama is a decoder without one"),
        ("roberta", [], "objective=mlm needs a mask token, and its tokenizer has none"),
    ],
)
def test_a_model_that_cannot_be_asked_is_refused_before_any_training(
    call, capsys, tmp_path, model_folders, monkeypatch, model, overrides, says
):
    monkeypatch.setattr("adaptbench.pretraining.loop.train", lambda *_: 1 / 0)
    folder = save_bare("roberta", tmp_path / "roberta") if model == "roberta" else model_folders[model]
    assert call(*overrides, start=folder) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert says in error


def test_files_without_all_weights_are_refused(call, capsys, bert, tmp_path):
    folder = tmp_path / "cut"
    AutoTokenizer.from_pretrained(bert).save_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(bert)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if "layer.1." not in name}
    model.save_pretrained(folder, state_dict=tensors)
    assert call(start=folder) == 2
    assert "its files have no weights for bert.encoder.layer.1." in capsys.readouterr().err


def test_later_models_of_a_call_are_tried_before_the_first_is_trained(call, capsys, monkeypatch):
    monkeypatch.setattr("adaptbench.pretraining.loop.train", lambda *_: 1 / 0)
    given = ["models=[micro_gpt_s,tapt]", "fast=true", "output=weights"]
    assert call(*given, "recipes.tapt.column=words") == 2
    assert "no text column 'words'" in capsys.readouterr().err
    assert (
        call(*given, "recipes.tapt.start=minilm_l6_dapt", "recipes.tapt.overrides=[]", "recipes.tapt.corpus=micro_rte")
        == 2
    )
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "outputs/pretrained/minilm_l6_dapt" in error
    assert "python -m experiments.pretrain models=[dapt]" in error
