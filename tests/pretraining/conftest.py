"""`python -m experiments.pretrain` in this process, on a tiny BERT and rows of a few words."""

import hashlib
import json
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from adaptbench.pretraining.held_out import digest_lines
from experiments import pretrain
from tests.conftest import WORDS
from tests.models.bare import save_bare
from tests.programs import exit_code

LABELS = ("bad", "good")


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of four to fourteen words."""
    rng, words, found = random.Random(seed), WORDS.split(), {}
    while len(found) < count:
        found[" ".join(rng.choices(words, k=rng.randint(4, 14)))] = None
    return list(found)


def rows_file(path: Path, texts: list[str]) -> Path:
    rows = [{"text": text, "label": LABELS[index % 2], "id": index} for index, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="session")
def bert(tmp_path_factory) -> Path:
    """With dropout, so that a step's random numbers matter."""
    folder = tmp_path_factory.mktemp("bert")
    return save_bare("bert", folder, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)


@pytest.fixture
def rows(tmp_path) -> tuple[Path, Path]:
    """Training and evaluation rows; the last two evaluation texts are training texts, too."""
    texts = sentences(60)
    return rows_file(tmp_path / "train.jsonl", texts[:40]), rows_file(tmp_path / "test.jsonl", texts[38:])


@pytest.fixture
def call(tmp_path, monkeypatch, bert, rows) -> Callable[..., int]:
    """call(*overrides) trains recipe `tapt` on the rows, unless they say otherwise, and gives the exit code."""
    monkeypatch.chdir(tmp_path)
    train, evaluation = rows

    def run(*overrides: str, start: Path = bert, inner: tuple[str, ...] = ()) -> int:
        own = [
            f"model.path={start}", f"dataset.train={train}", f"dataset.evaluation={evaluation}",
            "dataset.labels={bad: 0, good: 1}", "dataset.shots=4", "device=cpu", *inner,
        ]  # fmt: skip
        quoted = ",".join(f'"{override}"' for override in own)
        given = ["models=[tapt]", "recipes.tapt.start=local", "recipes.tapt.corpus=files_classification"]
        sizes = ["epochs=3", "batch=8", "rows_per_pass=4", "length=16", "lr=1e-3"]
        given += [f"recipes.tapt.{size}" for size in sizes]
        given += ["autocast=false", f"recipes.tapt.overrides=[{quoted}]", *overrides]
        return exit_code(monkeypatch, pretrain, *given)

    return run


def pretrained(folder: Path, digests: Iterable[str], before: dict[str, Any] | None = None, **corpus: Any) -> Path:
    """What a pre-training leaves beside a model, on texts and rows with these hashes."""
    lines = digest_lines(digests)
    own = {"names": ["toy"], "sha256": "c", "column": None, "left_out": 0, "left_out_sha256": "l", "made_for": []}
    own |= {"digests_sha256": hashlib.sha256(lines).hexdigest(), **corpus}
    said = {
        "recipe": {"kind": "continued"}, "objective": "mlm", "start": {"model": "bert", "pretraining": before},
        "sha256": "w", "corpus": own, "bill": {"flops": 1, "seconds": 1.0, "storage_bytes": 1, "tokens": 2},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "provenance.json").write_text(json.dumps(said))
    (folder / "corpus.sha256").write_bytes(lines)
    return folder


TAPT = Path("outputs/pretrained/local_tapt_files_classification")


def provenance(folder: Path = TAPT) -> dict:
    return json.loads((folder / "provenance.json").read_text())
