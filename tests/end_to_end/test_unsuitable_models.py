"""A model that a method cannot work on is one line, exit code 2, before any weights are read."""

from pathlib import Path

import pytest
from transformers import AutoConfig

from tests.conftest import WORDS, bpe_tokenizer
from tests.models.architectures import config_of, save_tiny

GPT_NEO = {
    **{"hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48, "max_position_embeddings": 512},
    **{"attention_types": [[["global", "local"], 1]]},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    made = {}
    for kind in ("falcon", "bloom", "gpt_neo", "bart"):
        tokenizer = bpe_tokenizer([WORDS] * 4, end_of_sequence=kind == "bart")
        if kind == "gpt_neo":
            config = AutoConfig.for_model(kind, **GPT_NEO, vocab_size=len(tokenizer))
        else:
            config = config_of("falcon_40b" if kind == "falcon" else kind, len(tokenizer))
        made[kind] = save_tiny(config, tokenizer, tmp_path_factory.mktemp(kind))
    return made


@pytest.mark.parametrize(
    ("kind", "method", "says"),
    [
        ("falcon", "prefix", "method=prefix: falcon computes attention in its own code"),
        ("bloom", "unipelt", "method=unipelt: bloom computes attention in its own code"),
        ("falcon", "icl_cached", "method.cached=true: falcon computes attention in its own code"),
        ("bart", "icl_cached", "method.cached=true: an encoder that looks both ways"),
        ("gpt_neo", "lora", "model=local: the parts of a model of type 'gpt_neo' are not known here"),
        ("gpt_neo", "icl_cached", "model=local: the parts of a model of type 'gpt_neo' are not known here"),
    ],
)
def test_a_method_that_a_model_cannot_have_is_one_line(call, capsys, monkeypatch, folders, kind, method, says):
    def forbidden(*_, **__):
        raise AssertionError("weights were read")

    monkeypatch.setattr("adaptbench.tasks.base.TaskType.load", forbidden)
    common = ("model=local", f"model.path={folders[kind]}", "dataset=micro_rte", "seeds=[0]", "progress=false")
    assert call(*common, f"method={method}") == 2
    captured = capsys.readouterr()
    (line,) = captured.err.strip().splitlines()
    assert line.startswith("error: ")
    assert says in line


@pytest.mark.parametrize(("kind", "method"), [("gpt_neo", "icl"), ("bloom", "lora")])
def test_a_method_that_it_can_have_runs(call, folders, kind, method):
    common = ("model=local", f"model.path={folders[kind]}", "dataset=micro_rte", "seeds=[0]", "progress=false")
    steps = ("method.steps=2",) if method == "lora" else ()
    assert call(*common, f"method={method}", "limit=4", "shots=2", *steps) == 0
    assert len(list(Path("outputs").rglob("records/*.json"))) == 1
