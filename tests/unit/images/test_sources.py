import pytest

from agentkernel.images.sources import Distribution, Source, choose, distribution_of, parse_deb822, parse_list
from agentkernel.model.errors import Unsupported

BOOKWORM = Distribution("debian", "bookworm")
STANZAS = """\
Types: deb deb-src
# a comment
URIs: http://archive.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://archive.example/debian-security/
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main
"""


def test_stanzas_are_read_and_disabled_ones_are_not():
    found = list(parse_deb822(STANZAS))
    assert [source.suite for source in found] == ["bookworm", "bookworm-updates", "bookworm-security"]
    assert found[0].components == ("main", "contrib")
    assert found[2].uri == "http://archive.example/debian-security"


def test_lines_are_read_with_their_options():
    text = """
    deb [arch=amd64 signed-by=/k.gpg] http://archive.example/debian bookworm main  # why
    deb-src http://archive.example/debian bookworm main
    # deb http://off.example bookworm main
    deb http://archive.example/debian bookworm-updates main contrib
    """
    assert list(parse_list(text)) == [
        Source("http://archive.example/debian", "bookworm", ("main",), "/k.gpg"),
        Source("http://archive.example/debian", "bookworm-updates", ("main", "contrib")),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ID=debian\nVERSION_CODENAME=bookworm\n", BOOKWORM),
        ('ID=ubuntu\nID_LIKE=debian\nVERSION_CODENAME=noble\nUBUNTU_CODENAME="noble"', Distribution("ubuntu", "noble")),
        (
            "ID=mint\nID_LIKE='ubuntu debian'\nVERSION_CODENAME=x\nUBUNTU_CODENAME=jammy",
            Distribution("ubuntu", "jammy"),
        ),
        ("ID=fedora\nVERSION_ID=40\n", None),
        ("", None),
    ],
)
def test_the_distribution_is_the_one_whose_archive_is_used(text, expected):
    assert distribution_of(text) == expected


def test_backports_are_derived_and_may_be_missing():
    chosen = choose(parse_deb822(STANZAS), BOOKWORM, {})
    last = chosen[-1]
    assert (last.uri, last.suite, last.optional) == ("http://archive.example/debian", "bookworm-backports", True)
    assert not any(source.optional for source in chosen[:-1])
    assert all(source.components == ("main",) for source in chosen)


def test_backports_of_the_host_are_used_as_they_are():
    host = [*parse_deb822(STANZAS), Source("http://other.example/debian", "bookworm-backports", ("main",))]
    chosen = choose(host, BOOKWORM, {})
    assert [source.uri for source in chosen if source.suite == "bookworm-backports"] == ["http://other.example/debian"]


@pytest.mark.parametrize(
    "third_party",
    [
        Source("https://tools.example/apt", "bookworm", ("main",), "/usr/share/keyrings/tools.gpg"),
        Source("https://tools.example/apt", "bookworm", ("stable",)),
        Source("https://tools.example/apt", "nodistro", ("main",)),
        Source("https://tools.example/apt", "bookworm", ("main",), "-----BEGIN PGP PUBLIC KEY BLOCK-----"),
    ],
)
def test_other_peoples_repositories_are_left_out(third_party):
    chosen = choose([third_party, *parse_deb822(STANZAS)], BOOKWORM, {})
    assert not any("tools.example" in source.uri for source in chosen)


def test_a_mirror_takes_the_place_of_everything():
    chosen = choose(parse_deb822(STANZAS), BOOKWORM, {"AGENTKERNEL_MIRROR": "http://mirror.example/debian/"})
    assert [(source.uri, source.suite) for source in chosen] == [
        ("http://mirror.example/debian", "bookworm"),
        ("http://mirror.example/debian", "bookworm-updates"),
        ("http://mirror.example/debian-security", "bookworm-security"),
        ("http://mirror.example/debian", "bookworm-backports"),
    ]
    assert [source.optional for source in chosen] == [False, True, True, True]


def test_a_mirror_serves_a_host_of_another_distribution():
    chosen = choose([], None, {"AGENTKERNEL_MIRROR": "http://mirror.example/debian"})
    assert chosen[0].suite == "bookworm"


@pytest.mark.parametrize("distribution", [None, BOOKWORM])
def test_a_host_without_sources_is_told_about_the_mirror(distribution):
    with pytest.raises(Unsupported) as caught:
        choose([], distribution, {})
    assert "AGENTKERNEL_MIRROR" in caught.value.hint


def test_signatures_are_never_waived():
    for source in choose(parse_deb822(STANZAS), BOOKWORM, {}):
        assert "trusted=" not in source.line()
