"""Files that are no adapter, or not a whole one: each is refused in one line that says what is wrong with it."""

import io
import json
import pickle
import struct

import pytest
import torch
from safetensors.torch import load_file, save_file

from adaptbench.data.fewshot import draw
from adaptbench.errors import InputError
from adaptbench.methods import METHODS
from adaptbench.methods.checkpoints import load_adapter, load_tfew
from adaptbench.methods.ia3 import IA3
from adaptbench.methods.layernorm import LayerNorm
from adaptbench.methods.lora import LoRA
from adaptbench.methods.peft_format import export_peft, import_peft
from adaptbench.methods.released import released_vectors
from tests.factories import recipe, toy_task

OWN, PEFT, VECTORS = "adapter.safetensors", "adapter_model.safetensors", "vectors.pt"
CONFIG = "adapter_config.json"
QUERY = "encoder.block.0.layer.0.SelfAttention.q"
KEY = "encoder.block.0.layer.0.SelfAttention.k.multi_lora_b"


@pytest.fixture(scope="module")
def written(backbones, tmp_path_factory):
    """One adapter of every format, as bytes by file name; each is readable as it is."""
    backbone, files = backbones["t5"], {}
    for method in (LoRA(name="lora", rank=2), IA3(name="ia3"), LayerNorm(name="norms")):
        folder = tmp_path_factory.mktemp(method.kind)
        method.save(method.prepare(backbone, [0]), folder, 0)
        files[method.kind] = {name: (folder / name).read_bytes() for name in (CONFIG, OWN)}
        load_adapter(folder, backbone)
    folder = tmp_path_factory.mktemp("fish")
    task, method = toy_task(), METHODS["fish_mask"](name="fish", keep=0.01, steps=1)
    method.save(method.adapt(backbone, task, [draw(task, 1, 4)], recipe()), folder, 0)
    files["fish"] = {name: (folder / name).read_bytes() for name in (CONFIG, OWN)}
    folder = tmp_path_factory.mktemp("peft")
    method = LoRA(name="lora", rank=2)
    export_peft(method, method.prepare(backbone, [0]), folder)
    files["peft"] = {name: (folder / name).read_bytes() for name in (CONFIG, PEFT)}
    import_peft(folder, backbone)
    linear = backbone.anatomy.linear
    vectors = {f"{site.path}.multi_lora_b": torch.ones(site.d_out, 1) for site in linear("k", "v")}
    vectors |= {f"{site.path[:-2]}wi_1.multi_lora_b": torch.ones(site.d_in, 1) for site in linear("ff_out")}
    torch.save(vectors, folder / VECTORS)
    files["released"] = {VECTORS: (folder / VECTORS).read_bytes()}
    assert released_vectors(folder / VECTORS, backbone.anatomy)
    return files


def settings(**changes):
    """Other settings; None as a name's value here means that the name is left out."""

    def edit(folder):
        content = {**json.loads((folder / CONFIG).read_text()), **changes}
        kept = {name: value for name, value in content.items() if value is not Ellipsis}
        (folder / CONFIG).write_text(json.dumps(kept))

    return edit


def text(content):
    return lambda folder: (folder / CONFIG).write_bytes(content)


def tensors(change):
    """Other tensors in whichever safetensors file there is."""

    def edit(folder):
        (file,) = folder.glob("*.safetensors")
        state = load_file(file)
        change(state)
        save_file(state, file)

    return edit


def put(name, tensor):
    return tensors(lambda state: state.update({name: tensor(state[name]) if callable(tensor) else tensor}))


def raw(change):
    """Other bytes of the file of tensors."""

    def edit(folder):
        (file,) = [*folder.glob("*.safetensors"), *folder.glob("*.pt")]
        file.write_bytes(change(file.read_bytes()))

    return edit


def vectors(change):
    def edit(folder):
        content = torch.load(folder / VECTORS)
        torch.save(changed if (changed := change(content)) is not None else content, folder / VECTORS)

    return edit


def header(content):
    packed = json.dumps(content).encode()
    return struct.pack("<Q", len(packed)) + packed + bytes(64)


class Runs:
    """What a pickle that runs code does when it is opened."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('a pickle was executed')",))


def nan(tensor):
    return tensor.index_fill(0, torch.tensor([0]), float("nan"))


HOSTILE = {
    # stored by a run
    "no settings": ("lora", lambda folder: (folder / CONFIG).unlink(), "expected a JSON file"),
    "settings are a folder": ("lora", lambda folder: ((folder / CONFIG).unlink(), (folder / CONFIG).mkdir()), "JSON"),
    "no JSON": ("lora", text(b"{'kind': lora}"), "expected a JSON file"),
    "no text": ("lora", text(b"\xff\xfe{}\n\x00"), "expected a JSON file"),
    "a list": ("lora", text(b"[1]"), "expected a JSON object"),
    "endless nesting": ("lora", text(b"[" * 200_000), "expected a JSON file"),
    "no kind": ("lora", settings(kind=...), "kind=None"),
    "kind is a list": ("lora", settings(kind=["lora"]), "kind=['lora']"),
    "kind is a path": ("lora", settings(kind="../../lora"), "kind='../../lora'"),
    "kind stores nothing": ("lora", settings(kind="full_ft"), "kind='full_ft'"),
    "two lines": ("lora", settings(kind="lora\nand more \u2028 \ud800"), r"kind='lora\nand more"),
    "another base model": ("lora", settings(base_model="micro_t0"), "base_model='micro_t0'"),
    "unknown setting": ("lora", settings(dora=True), "lora has no setting 'dora'"),
    "missing setting": ("lora", settings(alpha=...), "lora misses the setting 'alpha'"),
    "rank as text": ("lora", settings(rank="2"), "rank='2': expected int"),
    "rank is true": ("lora", settings(rank=True), "rank=True: expected int"),
    "alpha is no number": ("lora", settings(alpha=float("nan")), "alpha=nan: expected float"),
    "targets of numbers": ("lora", settings(targets=[1]), "targets=[1]: expected list"),
    "unknown target": ("lora", settings(targets=["q", "magic"]), "unknown magic"),
    "wrong rank": ("lora", settings(rank=3), "has the shape (32, 2), expected (32, 3)"),
    "no rank": ("lora", settings(rank=0), "cannot be built"),
    "negative rank": ("lora", settings(rank=-2), "cannot be built"),
    "enormous rank": ("lora", settings(rank=10**15), "expected (32, 1000000000000000)"),
    "rank beyond arithmetic": ("lora", settings(rank=10**30), "expected int"),
    "too few targets": ("lora", settings(targets=["q", "v"]), "lora on t5 has no place for"),
    "no tensors": ("lora", lambda folder: (folder / OWN).unlink(), "not a safetensors file"),
    "empty file": ("lora", raw(lambda _: b""), "not a safetensors file"),
    "cut short": ("lora", raw(lambda content: content[:-9]), "not a safetensors file"),
    "cut in the header": ("lora", raw(lambda content: content[:20]), "not a safetensors file"),
    "a pickle": ("lora", raw(lambda _: pickle.dumps(Runs())), "not a safetensors file"),
    "unknown numbers": (
        "lora",
        raw(lambda _: header({"a": {"dtype": "F6_E2M3", "shape": [64], "data_offsets": [0, 48]}})),
        "not a safetensors file",
    ),
    "sizes overflow": (
        "lora",
        raw(lambda _: header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 64]}})),
        "not a safetensors file",
    ),
    "NaN": ("lora", put(f"{QUERY}.a", nan), f"'{QUERY}.a' has values that are NaN"),
    "whole numbers": ("lora", put(f"{QUERY}.a", lambda tensor: tensor.long()), "has torch.int64"),
    "complex numbers": ("lora", put(f"{QUERY}.a", lambda tensor: tensor.cfloat()), "has torch.complex64"),
    "one too many": ("lora", put("../../x\ny", torch.ones(1)), r"lora on t5 has no place for '../../x\ny'"),
    "one too few": ("lora", tensors(lambda state: state.pop(f"{QUERY}.a")), f"lora on t5 misses '{QUERY}.a'"),
    "all renamed": ("ia3", tensors(lambda state: state.update({"x" * 9999: state.popitem()[1]})), "xxx..."),
    "norms of another width": ("layernorm", put("encoder.final_layer_norm.weight", torch.ones(1, 31)), "(1, 31)"),
    "places beyond the weight": (
        "fish",
        put("shared.weight.indices", lambda places: places + 10**9),
        "expected places from 0",
    ),
    "places before the weight": (
        "fish",
        put("shared.weight.indices", lambda places: -places - 1),
        "expected places from 0",
    ),
    "places twice": ("fish", put("shared.weight.indices", torch.zeros_like), "a place comes twice"),
    "places as fractions": (
        "fish",
        put("shared.weight.indices", lambda places: places.float()),
        "expected torch.int32",
    ),
    "places of nothing": ("fish", put("shared.../x.indices", torch.zeros(1, dtype=torch.int32)), "misses"),
    "share of another size": ("fish", settings(keep=0.5), "but keep=0.5 of t5 are"),
    "share beyond all": ("fish", settings(keep=2.0), "method.keep=2.0"),
    "PEFT's folder": ("lora", settings(peft_type="LORA"), "use import_peft"),
    # PEFT's (more of them in test_peft_import.py)
    "PEFT: no settings": ("peft", lambda folder: (folder / CONFIG).unlink(), "expected a JSON file"),
    "PEFT: a number": ("peft", text(b"7"), "expected a JSON object"),
    "PEFT: type is a list": ("peft", settings(peft_type=["LORA"]), "peft_type=['LORA']"),
    "PEFT: no type": ("peft", settings(peft_type=...), "peft_type=None"),
    "PEFT: a path for a type": ("peft", settings(peft_type="../LORA"), "peft_type='../LORA'"),
    "PEFT: cut short": ("peft", raw(lambda content: content[:-1]), "not a safetensors file"),
    "PEFT: no tensors": ("peft", lambda folder: (folder / PEFT).unlink(), "not a safetensors file"),
    "PEFT: enormous rank": ("peft", settings(r=2**20), "expected"),
    "PEFT: endless expression": ("peft", settings(target_modules="(" * 5000 + ")" * 5000), "not a regular expression"),
    "PEFT: repeated beyond counting": ("peft", settings(target_modules="q{99999999999}"), "not a regular expression"),
    "PEFT: empty name": ("peft", settings(target_modules=[""]), "'' is no linear map"),
    "PEFT: everything": ("peft", settings(target_modules=".*"), "no linear map"),
    "PEFT: names of nothing": ("peft", settings(target_modules=[]), "names no module"),
    # released by the T-Few paper's authors
    "released: no file": ("released", lambda folder: (folder / VECTORS).unlink(), "not a checkpoint"),
    "released: empty": ("released", raw(lambda _: b""), "not a checkpoint"),
    "released: cut short": ("released", raw(lambda content: content[: len(content) // 2]), "not a checkpoint"),
    "released: runs code": ("released", raw(lambda _: pickle.dumps(Runs())), "not a checkpoint"),
    "released: no dictionary": ("released", vectors(lambda _: torch.ones(3)), "found Tensor"),
    "released: a list": ("released", vectors(lambda content: list(content)), "found list"),
    "released: names are numbers": ("released", vectors(lambda _: {1: torch.ones(3)}), "1 scales nothing"),
    "released: two lines": ("released", vectors(lambda _: {"a\nb": torch.ones(3)}), r"'a\nb' scales nothing"),
    "released: a number": ("released", vectors(lambda content: content.update({KEY: 3.0})), "no vector but float"),
    "released: nested": ("released", vectors(lambda content: {"state": content}), "'state' scales nothing"),
    "released: a matrix": (
        "released",
        vectors(lambda content: content.update({KEY: torch.ones(4, 8)})),
        "no vector: its shape is (4, 8)",
    ),
    "released: a sparse vector": (
        "released",
        vectors(lambda content: content.update({KEY: torch.ones(32, 1).to_sparse()})),
        "no vector but Tensor",
    ),
    "released: a short vector": (
        "released",
        vectors(lambda content: content.update({KEY: torch.ones(31, 1)})),
        "has 31 values, expected 32",
    ),
    "released: an empty vector": ("released", vectors(lambda content: content.update({KEY: torch.ones(0)})), "has 0"),
    "released: whole numbers": (
        "released",
        vectors(lambda content: content.update({KEY: torch.ones(32, 1).long()})),
        "has torch.int64",
    ),
    "released: NaN": ("released", vectors(lambda content: content.update({KEY: nan(content[KEY])})), "NaN"),
    "released: one missing": (
        "released",
        vectors(lambda content: (content.pop(KEY), None)[1]),
        "no vectors for 'encoder.block.0.layer.0.SelfAttention.k'",
    ),
    "released: one twice": (
        "released",
        vectors(lambda content: content.update({KEY.removesuffix(".multi_lora_b"): content[KEY]})),
        "comes twice",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_is_no_whole_adapter_is_refused_in_one_line(backbones, written, tmp_path, case):
    kind, edit, said = HOSTILE[case]
    for name, content in written[kind].items():
        (tmp_path / name).write_bytes(content)
    edit(tmp_path)
    read = {"peft": import_peft, "released": load_tfew}.get(kind, load_adapter)
    with pytest.raises(InputError) as refused:
        read(tmp_path / VECTORS if kind == "released" else tmp_path, backbones["t5"])
    message = str(refused.value)
    assert said in message
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    message.encode()  # can be printed
    assert message.startswith(str(tmp_path))


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_released_vectors_need_a_gated_feed_forward(backbones, tmp_path, architecture):
    """A vector on what an activation function reads is not the same as one on what it returns."""
    sites = backbones[architecture].anatomy.linear("k", "v", "ff_in")
    torch.save({f"{site.key}.multi_lora_b": torch.ones(site.d_out, 1) for site in sites}, tmp_path / VECTORS)
    with pytest.raises(InputError, match="gated feed-forwards"):
        load_tfew(tmp_path / VECTORS, backbones[architecture])


def test_the_pickle_of_these_tests_would_run_code():
    with pytest.raises(SystemExit):
        pickle.load(io.BytesIO(pickle.dumps(Runs())))
