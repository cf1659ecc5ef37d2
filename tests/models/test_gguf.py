"""A GGUF file is dequantised once, to the last bit, into a folder that loads as any other; or refused in one line."""

import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import sys
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedModel

from adaptbench.data.prompts import evaluation_prompts
from adaptbench.errors import InputError
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.models import gguf
from adaptbench.models.backbone import load_backbone
from adaptbench.models.gguf import dequantised, origin_of
from adaptbench.models.identity import content_id
from adaptbench.models.paths import resolve_path
from tests.conftest import WORDS, bpe_tokenizer
from tests.factories import toy_task
from tests.models.architectures import largest_difference
from tests.models.gguf_files import Original, original, write_gguf

KINDS = ("F32", "F16", "Q8_0", "Q4_1", "Q4_0")
TEXTS = (WORDS, "the  cat\n\tsat on 123 mats!", " Ünïcode </s> true", "")
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def made() -> Original:
    return original()


@pytest.fixture(scope="module")
def files(made, tmp_path_factory) -> dict[str, Path]:
    """A file of each kind, all of the same model."""
    place = tmp_path_factory.mktemp("files")
    return {kind: write_gguf(place / f"{kind}.gguf", made, kind) for kind in KINDS}


@pytest.fixture(scope="module")
def folders(files) -> dict[str, Path]:
    """What they become."""
    return {kind: dequantised(file) for kind, file in files.items()}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """Where folders of GGUF files are kept, with nothing in it yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "adaptbench" / "gguf"


def kept(cache: Path) -> list[str]:
    """All that is there, hidden things too."""
    return sorted(os.listdir(cache)) if cache.is_dir() else []


def dequantised_weights(made: Original, kind: str) -> dict[str, np.ndarray]:
    """What the package `gguf` makes of every weight. Blocks lie within rows, so the order of rows changes nothing."""
    form = GGMLQuantizationType[kind]
    return {
        name: weight if weight.ndim == 1 else dequantize(quantize(weight, form), form)
        for name, weight in ((name, weight.detach().numpy()) for name, weight in made.model.named_parameters())
    }


def assert_same_weights(folder: Path, expected: dict[str, np.ndarray]) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert type(loaded) is LlamaForCausalLM
    assert dict(loaded.named_parameters()).keys() == expected.keys()
    for name, weight in loaded.named_parameters():
        assert weight.dtype == torch.float32
        np.testing.assert_array_equal(weight.detach().numpy(), expected[name], err_msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_those_of_the_file_to_the_last_bit(made, folders, kind):
    assert_same_weights(folders[kind], dequantised_weights(made, kind))


def test_a_head_of_its_own_is_kept(tmp_path):
    made = original(tied=False)
    folder = dequantised(write_gguf(tmp_path / "x.gguf", made, "Q8_0"))
    expected = dequantised_weights(made, "Q8_0")
    assert "lm_head.weight" in expected
    assert_same_weights(folder, expected)


def test_embeddings_that_a_file_repeats_as_its_head_are_read(made, tmp_path):
    embeddings = made.weights()["token_embd.weight"]
    folder = dequantised(write_gguf(tmp_path / "x.gguf", made, also={"output.weight": embeddings}))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    np.testing.assert_array_equal(loaded.get_output_embeddings().weight.detach().numpy(), embeddings)


@torch.no_grad()
def test_what_was_never_quantised_is_the_original_model(made, folders):
    """Its settings too: heads, rotary positions, the norms' epsilon."""
    loaded = AutoModelForCausalLM.from_pretrained(folders["F32"])
    ids = torch.randint(3, made.model.config.vocab_size, (3, 40))
    assert torch.equal(loaded(ids).logits, made.model(ids).logits)
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "max_position_embeddings", "tie_word_embeddings"):
        assert getattr(loaded.config, name) == getattr(made.model.config, name)


@pytest.mark.parametrize("adds_start", [False, True])
def test_its_tokenizer_is_the_files(made, tmp_path, adds_start):
    folder = dequantised(write_gguf(tmp_path / "x.gguf", made, "Q8_0", adds_start=adds_start))
    ours = AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        start = [made.tokenizer.bos_token_id] if adds_start else []
        assert ours(text).input_ids == [*start, *made.tokenizer(text).input_ids]
        assert ours.decode(ours(text).input_ids, skip_special_tokens=True) == text.replace("</s>", "")
    special = ("bos_token_id", "eos_token_id", "pad_token_id")
    assert [getattr(ours, name) for name in special] == [getattr(made.tokenizer, name) for name in special]


@pytest.mark.parametrize("kind", KINDS)
def test_choices_score_as_transformers_scores_them(files, folders, kind):
    backbone = load_backbone.__wrapped__("gguf", str(files[kind]), device="cpu")
    own = AutoModelForCausalLM.from_pretrained(folders[kind], attn_implementation="eager").eval()
    prompts = evaluation_prompts(toy_task(rows=8), "long")
    assert largest_difference(own, ZeroShot().prepare(backbone, [0]), prompts) < 1e-4
    whole = AutoModelForCausalLM.from_pretrained(folders["F32"]).eval()
    lost = largest_difference(whole, ZeroShot().prepare(backbone, [0]), prompts)
    assert (
        lost < 1e-4 if kind == "F32" else lost > 1e-3
    )  # quantisation does change scores, so another kind's would show


def test_a_folder_is_known_by_its_files_content(files, folders):
    for kind, file in files.items():
        assert content_id(str(folders[kind])) == content_id(str(file)) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert len(set(folders.values())) == len(KINDS)


def test_it_says_what_became_of_the_weights(folders, model_folders):
    said = {kind: origin_of(str(folder)) for kind, folder in folders.items()}
    quantised = {kind: f"dequantised from {kind}" for kind in ("Q8_0", "Q4_1", "Q4_0")}
    assert said == {"F32": "converted from F32", "F16": "converted from F16", **quantised}
    assert origin_of(str(model_folders["llama"])) is None
    assert origin_of("some/hub-id") is None


def test_a_file_is_converted_once_wherever_it_lies(files, cache, tmp_path, monkeypatch):
    folder = dequantised(files["Q4_0"])
    assert kept(cache) == [folder.name]
    stamps = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    elsewhere = tmp_path / "another name.gguf"
    shutil.copyfile(files["Q4_0"], elsewhere)
    with monkeypatch.context() as patch:
        patch.setattr(gguf, "_convert", lambda *_: pytest.fail("converted again"))
        for path in (str(files["Q4_0"]), str(elsewhere), str(folder)):
            assert resolve_path(path) == str(folder)
    assert stamps == {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    shutil.copyfile(files["Q4_1"], elsewhere)  # the same name, another content
    assert resolve_path(str(elsewhere)) != str(folder)
    assert len(kept(cache)) == 2


def test_a_path_may_start_at_home(files, folders, monkeypatch):
    monkeypatch.setenv("HOME", str(files["Q4_1"].parent))
    assert resolve_path("~/Q4_1.gguf") == str(folders["Q4_1"])


def test_two_processes_at_once_end_with_one_folder(files, cache, monkeypatch):
    """Both have converted the file before either puts it in its place."""
    context = multiprocessing.get_context("fork")
    barrier, answers = context.Barrier(2), context.Queue()
    convert = gguf._convert

    def together(*arguments):
        convert(*arguments)
        barrier.wait(30)

    monkeypatch.setattr(gguf, "_convert", together)
    processes = [context.Process(target=lambda: answers.put(resolve_path(str(files["Q4_1"])))) for _ in range(2)]
    for process in processes:
        process.start()
    found = {answers.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert found == {str(cache / content_id(str(files["Q4_1"])))}
    assert kept(cache) == [Path(name).name for name in found]


def test_nothing_beside_the_file_is_taken_for_a_part_of_it(made, cache, tmp_path, monkeypatch):
    """Transformers would prefer a tokenizer in its folder, and a file of its name in the working directory."""
    beside, working = tmp_path / "beside", tmp_path / "working"
    working.mkdir()
    write_gguf(working / "x.gguf", original(seed=1))
    bpe_tokenizer(["other words"], end_of_sequence=True).save_pretrained(beside)
    (beside / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    monkeypatch.chdir(working)
    folder = dequantised(write_gguf(beside / "x.gguf", made))
    assert_same_weights(folder, dequantised_weights(made, "F32"))
    assert AutoTokenizer.from_pretrained(folder)(WORDS).input_ids == made.tokenizer(WORDS).input_ids


def refusal(path: Path, cache: Path) -> str:
    """Why a path is refused, in one line that names it; nothing may be left of the attempt."""
    before = kept(cache)
    with pytest.raises(InputError) as error:
        resolve_path(str(path))
    message = str(error.value)
    assert message.startswith(f"model.path={str(path)!r}: ")
    assert "\n" not in message
    assert kept(cache) == before
    return message


def test_a_file_cut_short_anywhere_is_refused(files, cache, tmp_path):
    whole, cut = files["Q4_1"].read_bytes(), tmp_path / "cut.gguf"
    places = [0, 3, 4, 8, 16, 24, *range(50, len(whole), len(whole) // 50), len(whole) - 1]
    for place in places:
        cut.write_bytes(whole[:place])
        assert "not a GGUF file" if place < 4 else "cut short, or " in refusal(cut, cache)


ONES = np.ones(64, dtype=np.float32)
# What is wrong: how a file is written, and what the line says.
UNFIT: dict[str, tuple[Callable[[Path, Original], object], str]] = {
    "a text": (lambda file, _: file.write_text("GGML\n" * 99), "not a GGUF file"),
    "no such file": (lambda file, _: None, "no such file"),
    "an architecture that transformers does not read": (
        lambda file, made: write_gguf(file, made, architecture="rwkv6"),
        "cannot be dequantised: GGUF model with architecture rwkv6 is not supported",
    ),
    "a tokenizer that it does not read": (
        lambda file, made: write_gguf(file, made, vocabulary="rwkv"),
        "Cannot build a tokenizer from a GGUF file stating tokenizer 'rwkv'",
    ),
    "no weights": (lambda file, made: write_gguf(file, made, without=""), "holds no weights"),
    "a part of the weights": (
        lambda file, made: write_gguf(file, made, without="blk.1."),
        "lacks 9 of the model's weights, such as model.layers.1.input_layernorm.weight",
    ),
    "biases that transformers passes over": (
        lambda file, made: write_gguf(file, made, also={"blk.0.attn_q.bias": ONES}),
        "64 of its 85440 numbers are weights that transformers does not read",
    ),
    "factors of rotary positions": (
        lambda file, made: write_gguf(file, made, also={"rope_freqs.weight": ONES[:8]}),
        "8 of its 85384 numbers are weights that transformers does not read",
    ),
    "scaled rotary positions": (
        lambda file, made: write_gguf(file, made, scaling="yarn"),
        "yarn scaling of rotary positions, which transformers does not read",
    ),
}


@pytest.mark.parametrize("what", UNFIT)
def test_an_unfit_file_is_refused(made, cache, tmp_path, what):
    write, says = UNFIT[what]
    write(tmp_path / "x.gguf", made)
    assert says in refusal(tmp_path / "x.gguf", cache)


def test_positions_that_are_said_not_to_be_scaled_are_read(made, tmp_path):
    folder = dequantised(write_gguf(tmp_path / "x.gguf", made, scaling="none"))
    assert_same_weights(folder, dequantised_weights(made, "F32"))


def test_a_disk_without_room_is_known_before_anything_is_written(files, cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**12, 10**12, 300_000))
    assert "its weights take 0 MB dequantised, and " in refusal(files["Q4_1"], cache)
    assert not cache.exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))  # a file system that does not say
    assert dequantised(files["Q4_1"]).parent == cache


def test_a_disk_that_fills_meanwhile_leaves_nothing_half_written(made, files, cache, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def half(_model, folder, **_):
        (Path(folder) / "model.safetensors").write_bytes(bytes(1000))
        raise full

    with monkeypatch.context() as patch:
        patch.setattr(PreTrainedModel, "save_pretrained", half)
        assert "cannot be dequantised: [Errno 28] No space left on device" in refusal(files["Q4_1"], cache)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(full))
        assert "No space left on device" in refusal(files["Q4_1"], cache)
    assert_same_weights(dequantised(files["Q4_1"]), dequantised_weights(made, "Q4_1"))  # with room again, it is made


def test_an_interrupted_conversion_leaves_nothing(files, cache, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(gguf, "_convert", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dequantised(files["Q4_1"])
    assert kept(cache) == []


def test_a_cache_that_cannot_be_written_is_named(files, cache, monkeypatch):
    cache.parent.parent.write_text("a file where the user's cache should be")
    assert f"{cache} cannot be written: " in refusal(files["Q4_1"], cache)
    cache.parent.parent.unlink()
    cache.parent.mkdir(parents=True)
    cache.write_text("a file where the folders should be")
    assert f"{cache} cannot be written: " in refusal(files["Q4_1"], cache)
    cache.unlink()

    def read_only(**_):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.mkdtemp", read_only)
    assert f"{cache} cannot be written: Read-only file system" in refusal(files["Q4_1"], cache)


def test_without_the_package_a_line_says_what_to_install(files, cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "need the package gguf (pip install gguf)" in refusal(files["Q4_1"], cache)
