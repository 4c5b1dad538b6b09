"""Search over whole headers, and what is planned."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

from deep_learning_recipes import UsageError, catalogue, did_you_mean
from deep_learning_recipes.catalogue.planned import PLANNED, Planned
from deep_learning_recipes.catalogue.search import nearest, not_covered, search

RECIPES = catalogue.find_recipes(ROOT / "recipes")


@pytest.fixture(autouse=True)
def teapots(monkeypatch):
    """What is planned changes; these stay."""
    teapot = Planned("generative", "a pot for tea", "kettle, crockery, elbo")
    samovar = Planned("sequences", "a pot for more tea", "kettle, brass, teapots")
    monkeypatch.setitem(PLANNED, "samovar", samovar)
    monkeypatch.setitem(PLANNED, "teapot", teapot)


def named(*words, theme=None):
    return [recipe.name for recipe in search([*words], RECIPES, theme).named]


def mentioned(*words):
    return [recipe.name for recipe in search([*words], RECIPES).mentioned]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("ewc", "catastrophic_forgetting"),
        ("lifelong learning", "catastrophic_forgetting"),
        ("hessian", "autodiff"),
        ("deep q-learning", "dqn"),
        ("Deep Q learning", "dqn"),
        ("CNNs", "lenet"),
        ("elbo", "vae"),
        ("backprop", "backpropagation"),
        ("autoencoders", "vae"),
        ("encoder", "vae"),
        ("RNN char", "char_rnn"),
        ("grad-cam", "grad_cam"),
        ("int8", "quantization"),
    ],
)
def test_common_names_are_found(words, name):
    assert name in named(*words.split())


def test_the_nearest_name_comes_first():
    assert named("pruning")[:2] == ["pruning", "deep_compression"]
    assert named("style", "transfer")[0] == "style_transfer"
    assert named("fast", "style", "transfer") == ["fast_style_transfer"]


def test_all_words_must_occur():
    assert named("rl", "dueling") == ["dqn"]
    assert named("rl", "elbo") == mentioned("rl", "elbo") == []


def test_descriptions_and_sources_are_searched_too():
    assert named("lecun") == []
    assert mentioned("lecun") == ["preprocessing", "lenet"]  # an author
    assert mentioned("viterbi's", "algorithm") == ["learning_settings"]
    assert "world_model" in mentioned("dreams", "had", "promised")


def test_a_short_word_must_stand_alone():
    found = {*named("rl"), *mentioned("rl")}
    theme = {recipe.name for recipe in RECIPES if recipe.theme == "reinforcement"}
    assert found == theme


def test_a_theme_bounds_the_search():
    assert named("vae", theme="generative") == ["vae"]
    assert search(["kettle"], RECIPES, "generative").planned == ["teapot"]


def test_planned_recipes_are_found():
    assert search(["teapot"], RECIPES).planned == ["teapot", "samovar"]
    assert search(["Kettles"], RECIPES).planned == ["samovar", "teapot"]
    assert search(["more", "tea"], RECIPES).planned == ["samovar"]
    assert "teapot" in search(["elbo"], RECIPES).planned


def test_what_is_planned_does_not_exist():
    assert not set(PLANNED) & {recipe.name for recipe in RECIPES}, (
        "a recipe that is there leaves catalogue/planned.py"
    )


def test_what_is_planned_can_be_found():
    for name, planned in PLANNED.items():
        assert planned.theme in catalogue.THEMES
        assert re.fullmatch(r"[a-z0-9_]+", name)
        assert planned.about.strip(" .") == planned.about
        tags = planned.tags.split(", ")
        assert 3 <= len(set(tags)) == len(tags) <= 8, name
        assert planned.tags == planned.tags.lower()
        assert search([name], RECIPES).planned[0] == name


def test_nearest_shares_tags_or_the_theme():
    assert nearest("teapot", RECIPES) == ["vae"]  # elbo
    of_theme = [recipe.name for recipe in RECIPES if recipe.theme == "sequences"]
    assert nearest("samovar", RECIPES) == of_theme[:3]


def test_what_is_not_covered_is_said_in_one_line():
    line = not_covered(["teapot"], RECIPES)
    assert line == "teapot: a pot for tea. It is not covered yet; nearest: vae"
    line = not_covered(["teapot", "samovar"], RECIPES)
    assert line.startswith("teapot, samovar are not covered yet; nearest: vae, ")


def test_find_recipe_names_what_is_near():
    assert catalogue.find_recipe("vae").path == Path(ROOT, "recipes/generative/vae.py")
    with pytest.raises(UsageError, match="no recipe 'lenett'; did you mean lenet"):
        catalogue.find_recipe("lenett")
    with pytest.raises(UsageError, match="^teapot: .* It is not covered yet; nearest"):
        catalogue.find_recipe("teapot")


def test_did_you_mean():
    assert did_you_mean("lenett", ["lenet", "vae"]) == "; did you mean lenet?"
    assert did_you_mean("rnn", ["lenet", "char_rnn"]) == "; did you mean char_rnn?"
    assert did_you_mean("zebra", ["lenet"]) == ""
