"""Which weights a path holds, by content: files by their hash, a hub model by its commit, never by a name alone."""

import hashlib
import os
from functools import lru_cache
from pathlib import Path

RELEVANT = (".safetensors", ".bin", ".pt", ".gguf", ".json", ".model", ".txt")  # weights, configuration, tokenizer
IGNORED = ("provenance.json", "README.txt")
LARGE = 2**26  # bytes from which on a file's hash is remembered between processes
HUB_SECONDS = 10


def content_id(path: str, revision: str | None = None) -> str | None:
    """The SHA-256 of a file or of a folder's files, or the commit of a hub model; None for one not to be reached.

    Args:
        revision: branch, tag or commit of a hub model; None is its main branch.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return _sha256(place)
    if place.is_dir():
        if place.parent == dequantised_folders():  # named after the file that it was made from
            return place.name
        files = sorted(f for f in place.rglob("*") if f.suffix in RELEVANT and f.name not in IGNORED and f.is_file())
        listed = [f"{file.relative_to(place).as_posix()} {_sha256(file)}" for file in files]
        return hashlib.sha256("\n".join(listed).encode()).hexdigest()
    return hub_commit(path, revision)


@lru_cache(maxsize=64)
def hub_commit(repository: str, revision: str | None) -> str | None:
    """The commit that a hub model's revision stands for now; without network, the one that is in the cache."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    try:
        return HfApi().model_info(repository, revision=revision, timeout=HUB_SECONDS).sha
    except Exception:  # no network, no such model, offline by choice: the cache may know it all the same
        pass
    try:
        cached = try_to_load_from_cache(repository, "config.json", revision=revision)
    except ValueError:  # not the form of a hub id
        return None
    return Path(cached).parent.name if isinstance(cached, str) else None


def _sha256(file: Path) -> str:
    state = file.stat()
    return _sha256_of(str(file.resolve()), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _sha256_of(file: str, size: int, changed: int) -> str:
    """The hash of a file in this state; that of a large one is kept, since reading 40 GB takes minutes."""
    kept = cache_folder() / "sha256" / hashlib.sha256(f"{file} {size} {changed}".encode()).hexdigest()
    if size >= LARGE and kept.is_file():
        return kept.read_text()
    with open(file, "rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    if size >= LARGE:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(found)
        except OSError:
            pass  # only a convenience
    return found


def cache_folder() -> Path:
    """This program's cache of the user, as the XDG specification says."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "adaptbench"


def dequantised_folders() -> Path:
    """Where models made from GGUF files are kept (`models/gguf.py`)."""
    return cache_folder() / "gguf"
