"""Any model folder loads, in a stated precision and place; what cannot be is one clear line."""

import pytest
import torch

from adaptbench.data.batching import encode
from adaptbench.data.templates import Prompt
from adaptbench.errors import InputError
from adaptbench.methods.zero_shot import ZeroShot
from adaptbench.models import placement
from adaptbench.models.backbone import load_backbone
from adaptbench.scoring.evaluate import evaluate

PROMPT = Prompt(
    "7", "t", "given that the cat sat on the mat, question 3: " + "a dog ran " * 9 + "end", ("yes", "no"), 0
)


def fresh(folder, **options):
    return load_backbone.__wrapped__("tiny", str(folder), **options)


@pytest.mark.parametrize("architecture", ["t5", "llama"])
def test_a_model_placed_by_accelerate_scores_the_same(model_folders, backbones, architecture):
    pytest.importorskip("accelerate")
    placed = fresh(model_folders[architecture], device_map="auto", device="cpu")
    (ours,), (plain,) = (
        evaluate(ZeroShot().prepare(backbone, [0]), [PROMPT], 4) for backbone in (placed, backbones[architecture])
    )
    assert ours[0].log_likelihoods == pytest.approx(plain[0].log_likelihoods, abs=1e-5)
    assert placed.device == torch.device("cpu")


@pytest.mark.parametrize(
    ("option", "package"), [({"quantization": "4bit"}, "bitsandbytes"), ({"device_map": "auto"}, "accelerate")]
)
def test_a_missing_optional_package_says_what_to_install(model_folders, monkeypatch, option, package):
    monkeypatch.setattr(placement, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(InputError, match=rf"needs {package}: pip install 'adaptbench\[(large|quantized)\]'"):
        fresh(model_folders["llama"], **option)


def test_bfloat16_is_refused_nowhere_and_float16_for_t5_with_the_reason(model_folders):
    for architecture, folder in model_folders.items():
        assert fresh(folder, dtype="bfloat16").model.dtype == torch.bfloat16
        if architecture == "t5":
            with pytest.raises(InputError, match="T5 overflows in float16"):
                fresh(folder, dtype="float16")
        else:
            assert fresh(folder, dtype="float16").model.dtype == torch.float16


def test_a_model_is_loaded_once_however_many_cells_ask(model_folders):
    folder = str(model_folders["gpt2"])
    first = load_backbone("tiny", folder, overlong="refuse")
    assert load_backbone("tiny", folder, overlong="refuse") is first
    load_backbone.cache_clear()


def test_an_over_long_prompt_is_refused_or_loses_the_right_end(model_folders):
    """T5's input its end (the marker stays), a decoder's its beginning, as the answer follows the end."""
    for architecture in ("t5", "llama"):
        folder = model_folders[architecture]
        whole = encode(fresh(folder), PROMPT)
        assert whole.truncated == 0
        limit = len(whole.source) - 5 + (0 if architecture == "t5" else max(map(len, whole.choices)))
        with pytest.raises(InputError, match=r"row '7': \d+ tokens do not fit .*model.overlong=truncate"):
            encode(fresh(folder, max_length=limit), PROMPT)
        cut = encode(fresh(folder, max_length=limit, overlong="truncate"), PROMPT)
        assert cut.truncated == 5
        assert cut.choices == whole.choices
        if architecture == "t5":
            assert cut.source == (*whole.source[:-6], whole.source[-1])
        else:
            assert cut.source == whole.source[5:]
        with pytest.raises(InputError, match="do not fit"):  # nothing of the prompt would be left
            encode(fresh(folder, max_length=1, overlong="truncate"), PROMPT)
