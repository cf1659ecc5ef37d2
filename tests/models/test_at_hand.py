"""Whether a model can be had is known without loading its weights."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptbench.errors import InputError
from adaptbench.models import at_hand
from adaptbench.models.at_hand import check_at_hand
from adaptbench.models.backbone import load_backbone


@pytest.fixture
def folder(model_folders, tmp_path):
    """A whole model, to be damaged."""
    return shutil.copytree(model_folders["gpt2"], tmp_path / "model")


def sharded(folder):
    """The weights in two files with an index, as large models come."""
    weights = load_file(folder / "model.safetensors")
    names, places = sorted(weights), {}
    for number, part in enumerate((names[:3], names[3:]), 1):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, {"format": "pt"})
        places |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("form", ["one file", "shards", "a .bin file"])
def test_a_whole_folder_passes(folder, form):
    if form == "shards":
        sharded(folder)
    if form == "a .bin file":
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    check_at_hand(str(folder), None, "model.path='x'")


def test_no_weights(folder):
    (folder / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"^model.path='x': no weights in this folder, expected one of model.safe"):
        check_at_hand(str(folder), None, "model.path='x'")


def test_weights_cut_short_as_by_an_interrupted_copy(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"model.safetensors is not a whole file of weights"):
        check_at_hand(str(folder), None, "model.path='x'")


def test_a_pointer_of_git_lfs_is_no_file_of_weights(folder):
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    with pytest.raises(InputError, match=r"not a whole file of weights"):
        check_at_hand(str(folder), None, "model.path='x'")


def test_a_shard_that_is_missing_or_an_index_that_is_none(folder):
    sharded(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-00002-of-00002.safetensors, which model.safetensors.index.json lists"):
        check_at_hand(str(folder), None, "model.path='x'")
    (folder / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(InputError, match=r"is no index of weights"):
        check_at_hand(str(folder), None, "model.path='x'")


def test_files_that_would_not_be_loaded_do_not_matter(folder):
    """People fetch one format of two: the index of the other then lists what is not there."""
    (folder / "pytorch_model.bin.index.json").write_text('{"weight_map": {"a": "pytorch_model-1.bin"}}')
    check_at_hand(str(folder), None, "model.path='x'")


@pytest.mark.parametrize("architecture", ["t5", "llama", "gpt2", "opt"])
def test_no_tokenizer(model_folders, tmp_path, architecture):
    """transformers makes up an empty one for T5, GPT-2 and OPT, for which all texts are equal."""
    folder = shutil.copytree(model_folders[architecture], tmp_path / "without")
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"^model.path='x': (no tokenizer|its tokenizer has no vocabulary)") as caught:
        check_at_hand(str(folder), None, "model.path='x'")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError):
        load_backbone.__wrapped__("x", str(folder))


class Words(tuple):
    """A tokenizer with three tokens, none of them special."""

    all_special_tokens = ()

    def __len__(self) -> int:
        return 3


@pytest.fixture
def hub(monkeypatch, folder):
    """A hub model of which only configuration and tokenizer are in the cache; the hub answers as it is told to."""
    (folder / "model.safetensors").unlink()
    monkeypatch.setattr(at_hand.AutoTokenizer, "from_pretrained", lambda *_, **__: Words())
    monkeypatch.setattr(at_hand, "try_to_load_from_cache", lambda *_, **__: str(folder / "config.json"))

    def answers(with_):
        monkeypatch.setattr(at_hand, "HfApi", lambda: SimpleNamespace(model_info=with_))

    return answers


def test_weights_that_are_neither_in_the_cache_nor_to_be_reached(hub):
    def model_info(*_, **__):
        raise ConnectionError("Name or service\nnot known")

    hub(model_info)
    with pytest.raises(InputError, match=r"weights are not in the cache, and the hub says: Name or service not known$"):
        check_at_hand("someone/model", "c0ffee", "model.path='someone/model'")


@pytest.mark.parametrize(("files", "fine"), [(["config.json", "model.safetensors"], True), (["config.json"], False)])
def test_weights_that_the_hub_has_or_has_not(hub, files, fine):
    hub(lambda *_, **__: SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files]))
    if fine:
        check_at_hand("someone/model", "c0ffee", "model.path='someone/model'")
    else:
        with pytest.raises(InputError, match="no weights in this repository"):
            check_at_hand("someone/model", "c0ffee", "model.path='someone/model'")
