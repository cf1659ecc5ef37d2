"""Models of conf/model that are made by pre-training: where they are looked for, and what is said without them."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from adaptbench.config import register_schemas, resolve
from adaptbench.errors import InputError
from adaptbench.models.paths import check_made
from adaptbench.preflight import bytes_of_a_run
from adaptbench.pretraining.provenance import check_provenance
from experiments import pretrain
from experiments.commandline import CONF
from tests.models.bare import save_bare
from tests.pretraining.conftest import pretrained

MADE = {
    "minilm_l6_tapt": ["models=[tapt]", "recipes.tapt.start=minilm_l6", "recipes.tapt.corpus=micro_rte"],
    "minilm_l6_dapt": ["models=[dapt]", "recipes.dapt.start=minilm_l6", "recipes.dapt.files=[<domain.txt>]"],
    "minilm_l6_dapt_tapt": ["models=[tapt]", "recipes.tapt.start=minilm_l6_dapt", "recipes.tapt.corpus=micro_rte"],
}


@pytest.fixture
def composed(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    register_schemas()
    GlobalHydra.instance().clear()
    with initialize_config_dir(CONF, version_base="1.3"):
        yield compose


@pytest.mark.parametrize("name", MADE)
def test_a_model_that_was_not_made_yet_says_how(composed, name):
    config = resolve(composed("config", [f"model={name}", "dataset=micro_rte"]))
    assert config.model.name == name
    with pytest.raises(InputError, match="not there; make it with: ") as raised:
        bytes_of_a_run(config)
    command = str(raised.value).partition("python -m experiments.pretrain ")[2]
    assert command.split() == MADE[name]


@pytest.mark.parametrize("name", MADE)
def test_the_command_makes_what_the_model_looks_for(composed, name):
    model = resolve(composed("config", [f"model={name}", "dataset=micro_rte"])).model
    given = [setting.replace("<", "").replace(">", "") for setting in MADE[name]]
    cfg = composed("pretrain", given)
    (recipe,) = cfg.models
    assert str(pretrain.folder_of(recipe, cfg)) == model.path


def test_a_model_that_is_there_is_taken_with_its_provenance_alone(composed, tmp_path):
    folder = tmp_path / "outputs/pretrained/minilm_l6_tapt_micro_rte"
    save_bare("bert", folder)
    config = resolve(composed("config", ["model=minilm_l6_tapt", "dataset=micro_rte"]))
    with pytest.raises(InputError, match="without its provenance\\.json; make it with: python"):
        bytes_of_a_run(config)
    pretrained(folder, [])
    check_made(config.model)
    check_provenance(config.model)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda text: text[: len(text) // 2], "provenance.json: cannot be read: "),
        (lambda text: "", "provenance.json: cannot be read: "),
        (
            lambda text: text.replace('"bill"', '"bills"'),
            "provenance.json: says nothing of 'bill'; make the model again",
        ),
        (lambda text: text.replace('"flops"', '"FLOPs"'), "provenance.json: says nothing of 'flops'"),
        (lambda text: text.replace('"tokens": 2', '"tokens": null'), "provenance.json: not as experiments.pretrain"),
        (lambda text: text.replace('"names"', '"name"'), "provenance.json: says nothing of 'names'"),
        (lambda text: '{"gguf": "a.gguf"}', "its provenance.json says nothing of a pre-training; make it with"),
        (None, "without its corpus.sha256; make it with: python -m experiments.pretrain"),
    ],
)
def test_a_damaged_provenance_is_one_line_before_anything_is_computed(composed, tmp_path, monkeypatch, damage, says):
    monkeypatch.setattr("adaptbench.preflight.content_id", lambda *_: 1 / 0)
    folder = tmp_path / "outputs/pretrained/minilm_l6_tapt_micro_rte"
    pretrained(folder, [])
    config = resolve(composed("config", ["model=minilm_l6_tapt", "dataset=micro_rte"]))
    if damage:
        (folder / "provenance.json").write_text(damage((folder / "provenance.json").read_text()))
    else:
        (folder / "corpus.sha256").unlink()
    with pytest.raises(InputError) as raised:
        bytes_of_a_run(config)
    assert says in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_published_settings_are_the_defaults(composed):
    cfg = composed("pretrain")
    tapt, dapt = (OmegaConf.to_container(cfg.recipes[name]) for name in ("tapt", "dapt"))
    published = {"epochs": 100.0, "steps": None, "batch": 256, "lr": 1e-4, "mask": 0.15, "schedule": "linear"}
    assert {name: tapt[name] for name in published} == published
    published |= {"epochs": None, "steps": 12500, "batch": 2048, "lr": 5e-4}
    assert {name: dapt[name] for name in published} == published
