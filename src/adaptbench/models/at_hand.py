"""Whether a model can be had, weights and tokenizer, found out without loading or downloading any weights."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, try_to_load_from_cache
from safetensors import safe_open
from transformers import AutoTokenizer

from adaptbench.errors import InputError, one_line
from adaptbench.models.identity import HUB_SECONDS

SINGLE, SHARDED = "model.safetensors", "model.safetensors.index.json"
WEIGHTS = (SINGLE, SHARDED, "pytorch_model.bin", "pytorch_model.bin.index.json")  # as transformers looks for them
SUFFIXES = (".safetensors", ".bin", ".gguf")


def check_at_hand(source: str, commit: str | None, named: str) -> None:
    """Refuse a model whose tokenizer or weights are not there, or not whole.

    Args:
        source: a folder, or a hub id.
        commit: of the hub id; None where the hub cannot say.
        named: the model, for the message.

    Raises:
        InputError: what is missing.
    """
    local = Path(source).is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **({"revision": commit} if commit and not local else {}))
    except Exception as error:
        raise InputError(f"{named}: no tokenizer that can be loaded: {one_line(error)}") from error
    check_vocabulary(tokenizer, named)
    folder = Path(source) if local else _in_cache(source, commit)
    if folder is not None and _has_weights([file.name for file in folder.iterdir()]):
        if problem := _fault(folder):
            raise InputError(f"{named}: {problem}")
    elif local:
        raise InputError(f"{named}: no weights in this folder, expected one of {', '.join(WEIGHTS)}")
    else:
        _check_hub(source, commit, named)


def check_vocabulary(tokenizer: Any, named: str) -> None:
    """Refuse a tokenizer that knows nothing but its special tokens.

    Where the files of a tokenizer are not there, transformers makes up an empty one of some kinds (GPT-2's, T5's), for
    which every text is the same.

    Raises:
        InputError: says which files are missing.
    """
    if len(tokenizer) - len(set(tokenizer.all_special_tokens)) < 2:  # T5's empty one still knows the blank
        raise InputError(
            f"{named}: its tokenizer has no vocabulary, expected tokenizer.json or the files it is made of"
        )


def _in_cache(repository: str, commit: str | None) -> Path | None:
    """The folder in the hub's cache that holds this commit, complete or not."""
    config = try_to_load_from_cache(repository, "config.json", revision=commit)
    return Path(config).parent if isinstance(config, str) else None


def _has_weights(names: list[str]) -> bool:
    return any(name in WEIGHTS or name.endswith(SUFFIXES) for name in names)


def _fault(folder: Path) -> str | None:
    """What is wrong with the weights that would be loaded: a shard that is missing, a file cut short."""
    first = next((name for name in WEIGHTS if (folder / name).exists()), None)
    files = [first] if first else []
    if first and first.endswith(".index.json"):
        try:
            files = sorted(set(json.loads((folder / first).read_text(encoding="utf-8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            return f"{first} is no index of weights"
    for name in files:
        if not (folder / name).is_file():
            return f"{name}, which {first} lists, is missing"
        if name.endswith(".safetensors"):
            try:
                with safe_open(folder / name, "pt"):  # reads the header, and compares the file's size with it
                    pass
            except Exception as error:
                return f"{name} is not a whole file of weights: {one_line(error)}"
    return None


def _check_hub(repository: str, commit: str | None, named: str) -> None:
    try:
        info = HfApi().model_info(repository, revision=commit, timeout=HUB_SECONDS)
    except Exception as error:
        raise InputError(f"{named}: its weights are not in the cache, and the hub says: {one_line(error)}") from error
    if not _has_weights([file.rfilename for file in info.siblings or []]):
        raise InputError(f"{named}: no weights in this repository, expected one of {', '.join(WEIGHTS)}")
