"""What the repository itself promises: small files, and nothing that only works on one machine."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LARGEST, WHOLE = 6 * 2**20, 40 * 2**20


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files"], capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def test_no_file_is_above_6_mb_and_the_whole_below_40(tracked):
    sizes = {path: path.stat().st_size for path in tracked}
    assert max(sizes.values()) < LARGEST, max(sizes, key=sizes.__getitem__)
    assert sum(sizes.values()) < WHOLE


def test_yaml_names_things_and_never_code(tracked):
    """Configurations carry names and numbers; a `_target_` would let a shared file run anything."""
    configs = [path for path in tracked if path.parts[len(ROOT.parts)] == "conf" and path.suffix == ".yaml"]
    assert len(configs) > 20
    assert [path for path in configs if "_target_" in path.read_text(encoding="utf-8")] == []


def test_methods_do_not_know_the_runner_and_the_analysis_knows_metrics_alone(tracked):
    for path in tracked:
        if path.suffix != ".py":
            continue
        text = path.read_text(encoding="utf-8")
        if "adaptbench/methods/" in path.as_posix():
            assert "adaptbench.runner" not in text, path
        if path.is_relative_to(ROOT / "analysis"):
            imported = set(re.findall(r"^(?:from|import) (adaptbench[\w.]*)", text, re.MULTILINE))
            assert all(re.match(r"adaptbench(\.metrics|$)", name) for name in imported), path
            assert "import torch" not in text, path
