"""GGUF files (llama.cpp's format): dequantised once into a folder that loads like any other model."""

import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer
from transformers.utils import logging as hf_logging

from adaptbench.disk import nearest, too_little
from adaptbench.errors import InputError, one_line
from adaptbench.models.identity import content_id, dequantised_folders

MAGIC = b"GGUF"
ORIGIN = "provenance.json"
BYTES = 4  # per parameter, of the float32 weights that are written
UNQUANTISED = ("F64", "F32", "F16", "BF16")


@dataclass(frozen=True)
class Contents:
    """What a file says of itself."""

    elements: dict[str, int]  # of every tensor
    quantisation: str  # of most of them
    scaling: str | None  # of rotary positions


def dequantised(file: Path) -> Path:
    """The folder with a GGUF file's weights (float32 safetensors), configuration and tokenizer.

    It lies in the user's cache and is named after the file's content, so it is made once and serves every run.

    Raises:
        InputError: not a whole GGUF file, one that transformers cannot read or reads in part, or no room for the
            weights.
    """
    folder = dequantised_folders() / str(content_id(str(file)))
    if folder.is_dir():
        return folder
    contents = _checked(file)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".writing-"))
    except OSError as error:
        raise InputError(f"model.path={str(file)!r}: {folder.parent} cannot be written: {error.strerror}") from None
    print(f"dequantising {file.name} (once; kept in {folder})", file=sys.stderr)
    try:
        origin = {"gguf": file.name, "sha256": folder.name, "quantisation": contents.quantisation}
        (temporary / ORIGIN).write_text(json.dumps(origin, indent=1))
        _convert(file, contents, temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model.path={str(file)!r}: cannot be dequantised: {one_line(error)}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def origin_of(folder: str) -> str | None:
    """What became of the weights before they came into a folder ("dequantised from Q4_1"); None if nothing is known."""
    if Path(folder).parent != dequantised_folders():
        return None
    stored = json.loads((Path(folder) / ORIGIN).read_text())["quantisation"]
    return f"{'converted' if stored in UNQUANTISED else 'dequantised'} from {stored}"


def _checked(file: Path) -> Contents:
    """What the file holds, once it is known to be whole and to fit on the disk."""
    named = f"model.path={str(file)!r}"
    try:
        from gguf import GGUFReader
    except ImportError:
        raise InputError(f"{named}: GGUF files need the package gguf (pip install gguf)") from None
    with open(file, "rb") as opened:
        if opened.read(len(MAGIC)) != MAGIC:
            raise InputError(f"{named}: not a GGUF file")
    try:
        reader = GGUFReader(file)
        elements = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
        by_type: Counter[str] = Counter()
        for tensor in reader.tensors:
            by_type[tensor.tensor_type.name] += elements[tensor.name]
        scaling = [f.contents() for name, f in reader.fields.items() if name.endswith(".rope.scaling.type")]
    except Exception as error:  # whatever the reader makes of a file that was cut short
        raise InputError(f"{named}: cut short, or not as the package gguf reads it: {one_line(error)}") from error
    if not elements:
        raise InputError(f"{named}: holds no weights")
    needed, folder = BYTES * sum(elements.values()), dequantised_folders()
    if (free := too_little(folder, needed)) is not None:
        room = f"{needed / 1e6:,.0f} MB dequantised, and {nearest(folder)} has {free / 1e6:,.0f} MB left"
        raise InputError(f"{named}: its weights take {room}")
    return Contents(elements, by_type.most_common(1)[0][0], scaling[0] if scaling else None)


def _convert(file: Path, contents: Contents, folder: Path) -> None:
    with tempfile.TemporaryDirectory() as empty:
        # transformers prefers a tokenizer that lies beside the file, and weights of the same name in the working
        # directory: it is told of a folder where nothing is, and of the file by its whole path.
        source: dict[str, Any] = {"pretrained_model_name_or_path": empty, "gguf_file": str(file.absolute())}
        config = AutoConfig.from_pretrained(**source)
        auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        hf_logging.disable_progress_bar()
        read, loading = auto.from_pretrained(**source, dtype="float32", output_loading_info=True)
        tokenizer = AutoTokenizer.from_pretrained(**source)
    _check_read(file, contents, read, loading["missing_keys"])
    # transformers still calls these weights quantised, and does not write such: a model that never was holds them.
    model = auto.from_config(read.config, dtype="float32")
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.load_state_dict(read.state_dict())
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for written in folder.iterdir():
        with open(written, "rb") as opened:
            os.fsync(opened.fileno())


def _check_read(file: Path, contents: Contents, model: Any, missing: Collection[str]) -> None:
    """Refuse what would be another model: transformers draws weights it misses, and passes over those it does not know.

    Raises:
        InputError: says which.
    """
    named, config = f"model.path={str(file)!r}", model.config.get_text_config()
    if missing:
        raise InputError(f"{named}: lacks {len(missing)} of the model's weights, such as {min(missing)}")
    rotary = getattr(config, "rope_parameters", None) or {}
    kinds = {part.get("rope_type") for part in (rotary, *rotary.values()) if isinstance(part, dict)}
    if contents.scaling not in (None, "none") and kinds <= {None, "default"}:
        raise InputError(f"{named}: {contents.scaling} scaling of rotary positions, which transformers does not read")
    held = sum(contents.elements.values())
    if config.tie_word_embeddings:  # some files repeat the embeddings
        held -= contents.elements.get("output.weight", 0)
    for name, elements in contents.elements.items():
        if name.startswith("blk.") and int(name.split(".")[1]) >= config.num_hidden_layers:
            held -= elements  # a block that drafts tokens, which is no part of the model
    once = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    if held > (known := sum(once.values())):
        raise InputError(f"{named}: {held - known} of its {held} numbers are weights that transformers does not read")
