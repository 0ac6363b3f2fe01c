import pytest

from agentkernel.images.recipe import Cookbook, digest_of, parse
from agentkernel.model.errors import NotFound, Refused


def test_a_recipe_is_read():
    recipe = parse("mine", 'description = "d"\nfrom = "base"\npackages = ["jq"]\nchecks = [["jq", "--version"]]')
    assert (recipe.parent, recipe.packages, recipe.checks) == ("base", ("jq",), (("jq", "--version"),))


def test_an_unknown_key_is_refused_with_the_nearest_known_one():
    with pytest.raises(Refused) as caught:
        parse("mine", 'package = ["jq"]')
    assert "package" in caught.value.message
    assert "packages" in caught.value.hint


@pytest.mark.parametrize("name", ["", "Upper", "-dash", "a/b", "..", "a" * 64, "white space"])
def test_a_bad_name_is_refused(name):
    with pytest.raises(Refused):
        parse(name, "")


@pytest.mark.parametrize(
    "text",
    [
        "packages = 'jq'",
        "packages = [1]",
        "packages = ['--allow-unauthenticated']",
        "packages = ['jq=1;rm']",
        "checks = ['jq']",
        "from = 3",
        "not toml",
        "[[wheels]]\nrequirement = '--index-url=http://x.example'\ntarget = '/usr/local'",
        "[[wheels]]\nrequirement = 'x'\nfolder = '../..'\ntarget = '/usr/local'",
        "[[wheels]]\nrequirement = 'x'\ntarget = '/usr/../../etc'",
        "[[wheels]]\nrequirement = 'x'\ntarget = '/usr'\n[wheels.links]\n'../../bin/sh' = 'y'",
    ],
)
def test_a_malformed_recipe_is_refused(text):
    with pytest.raises(Refused):
        parse("mine", text)


def test_the_description_does_not_change_the_digest_and_a_package_does():
    one, two, three = (
        digest_of(parse("mine", text).digest_inputs())
        for text in ('description = "a"', 'description = "b"', 'packages = ["jq"]')
    )
    assert one == two != three


def test_every_recipe_that_comes_with_the_package_is_well_formed(tmp_path):
    cookbook = Cookbook(tmp_path)
    assert set(cookbook.names()) == {"base", "c", "go", "java", "node", "python", "ruby", "rust"}
    for name in cookbook.names():
        lineage = cookbook.lineage(name)
        assert lineage[0].name == "base"
        assert lineage[-1].description.endswith(".")
        assert lineage[-1].checks
        assert lineage[-1].warm_up


def test_a_users_recipe_is_found_and_wins(tmp_path):
    (tmp_path / "mine.toml").write_text('from = "python"')
    (tmp_path / "python.toml").write_text('from = "base"\ndescription = "my own"')
    lineage = Cookbook(tmp_path).lineage("mine")
    assert [recipe.name for recipe in lineage] == ["base", "python", "mine"]
    assert lineage[1].description == "my own"


def test_an_unknown_runtime_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(NotFound) as caught:
        Cookbook(tmp_path).lineage("pyhton")
    assert "python" in caught.value.hint


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "A"])
def test_a_name_never_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(NotFound):
        Cookbook(tmp_path).lineage(name)


def test_a_circle_is_refused(tmp_path):
    (tmp_path / "one.toml").write_text('from = "two"')
    (tmp_path / "two.toml").write_text('from = "one"')
    with pytest.raises(Refused, match="circle"):
        Cookbook(tmp_path).lineage("one")


def test_a_changed_recipe_is_read_again(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('packages = ["jq"]')
    cookbook = Cookbook(tmp_path)
    assert cookbook.lineage("mine")[-1].packages == ("jq",)
    path.write_text('packages = ["jq", "ed"]')
    import os

    os.utime(path, ns=(1, 1))
    assert cookbook.lineage("mine")[-1].packages == ("jq", "ed")
