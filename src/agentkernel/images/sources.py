"""Where packages come from: the host's own package sources, read; or the mirror the user named. Pure, but for
`read_host`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from agentkernel.model.errors import Unsupported

_KEYRINGS = {
    "debian": Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}
_COMPONENTS = {"debian": ("main",), "ubuntu": ("main", "universe")}


@dataclass(frozen=True, slots=True)
class Source:
    """One archive suite.

    Attributes:
        signed_by: path of the keyring that its Release file must be signed by; empty for the host's trusted keys.
        optional: derived by us, and left out when the archive does not have it.
    """

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""
    optional: bool = False

    def line(self) -> str:
        """As a line of sources.list."""
        signed = f"[signed-by={self.signed_by}] " if self.signed_by else ""
        return f"deb {signed}{self.uri} {self.suite} {' '.join(self.components)}"


@dataclass(frozen=True, slots=True)
class Distribution:
    """Which one, and its release: `debian`, `bookworm`."""

    family: str
    codename: str

    @property
    def backports(self) -> str:
        """The suite with newer packages for this release."""
        return f"{self.codename}-backports"

    @property
    def suites(self) -> tuple[str, ...]:
        """All suites of this release that we use."""
        return (self.codename, f"{self.codename}-updates", f"{self.codename}-security", self.backports)


FALLBACK = Distribution("debian", "bookworm")
"""What a mirror is taken to be on a host that says nothing of itself."""


def distribution_of(os_release: str) -> Distribution | None:
    """The distribution whose archive the host uses, from the text of os-release; None for one that has no apt archive
    we know.

    Source: os-release(5); derivatives name what they are made from in UBUNTU_CODENAME or DEBIAN_CODENAME.
    """
    pairs = (line.partition("=") for line in os_release.splitlines())
    facts = {name: value.strip("\"'") for name, _, value in pairs}
    if ubuntu := facts.get("UBUNTU_CODENAME"):
        return Distribution("ubuntu", ubuntu)
    codename = facts.get("DEBIAN_CODENAME") or facts.get("VERSION_CODENAME", "")
    if codename and "debian" in (facts.get("ID", ""), *facts.get("ID_LIKE", "").split()):
        return Distribution("debian", codename)
    return None


def parse_list(text: str) -> Iterator[Source]:
    """The one-line format of sources.list(5); lines that are not binary sources are skipped."""
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words or words[0] != "deb":
            continue
        options = ""
        if len(words) > 1 and words[1].startswith("["):
            end = next((at for at, word in enumerate(words) if word.endswith("]")), len(words) - 1)
            options = " ".join(words[1 : end + 1]).strip("[] ")
            words = [words[0], *words[end + 1 :]]
        if len(words) >= 4:
            signed = next((o[len("signed-by=") :] for o in options.split() if o.lower().startswith("signed-by=")), "")
            yield Source(words[1].rstrip("/"), words[2], tuple(words[3:]), signed)


def parse_deb822(text: str) -> Iterator[Source]:
    """The stanza format of sources.list(5); disabled stanzas are skipped."""
    for fields in _stanzas(text):
        if fields.get("enabled", "yes").lower() == "no" or "deb" not in fields.get("types", "").split():
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                components = tuple(fields.get("components", "").split())
                yield Source(uri.rstrip("/"), suite, components, fields.get("signed-by", ""))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    fields: dict[str, str] = {}
    name = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if fields:
                yield fields
            fields, name = {}, ""
        elif line[0].isspace():
            fields[name] = f"{fields.get(name, '')}\n{line.strip()}"
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()


def read_host(etc: Path = Path("/etc/apt")) -> list[Source]:
    """All enabled sources of the host."""
    found: list[Source] = []
    folder = etc / "sources.list.d"
    for path in [etc / "sources.list", *(sorted(folder.iterdir()) if folder.is_dir() else [])]:
        if path.suffix in (".list", ".sources") and path.is_file():
            text = path.read_text(encoding="utf-8", errors="replace")
            found += parse_deb822(text) if path.suffix == ".sources" else parse_list(text)
    return found


def choose(host: Iterable[Source], distribution: Distribution | None, environ: Mapping[str, str]) -> list[Source]:
    """The sources to use: of the host's own those of its distribution, backports derived; or all from
    AGENTKERNEL_MIRROR.

    Raises:
        Unsupported: neither is there.
    """
    if mirror := environ.get("AGENTKERNEL_MIRROR", "").strip():
        return _from_mirror(mirror.rstrip("/"), distribution or FALLBACK)
    if distribution is None:
        raise Unsupported(
            "this host's distribution has no package archive that images can be made from",
            hint="set AGENTKERNEL_MIRROR to a Debian archive; README.md lists what to install on other distributions",
        )
    chosen = [_keyed(source, distribution) for source in host if _is_official(source, distribution)]
    main = next((source for source in chosen if source.suite == distribution.codename), None)
    if main is None:
        raise Unsupported(
            f"no package source for {distribution.codename} is enabled on this host",
            hint="enable one in /etc/apt, or set AGENTKERNEL_MIRROR to a Debian archive",
        )
    if all(source.suite != distribution.backports for source in chosen):
        chosen.append(replace(main, suite=distribution.backports, optional=True))
    return chosen


def _is_official(source: Source, distribution: Distribution) -> bool:
    """Not a third party's repository: those name their suites alike, but have a keyring or components of their own."""
    key = source.signed_by
    official_key = not key or f"{distribution.family}-archive" in key
    return source.suite in distribution.suites and "main" in source.components and official_key


def _keyed(source: Source, distribution: Distribution) -> Source:
    wanted = tuple(name for name in _COMPONENTS[distribution.family] if name in source.components)
    return replace(source, components=wanted, signed_by=source.signed_by or _keyring(distribution))


def _keyring(distribution: Distribution) -> str:
    path = _KEYRINGS[distribution.family]
    return str(path) if path.exists() else ""


def _from_mirror(uri: str, distribution: Distribution) -> list[Source]:
    main = Source(uri, distribution.codename, _COMPONENTS[distribution.family], _keyring(distribution))
    beside = f"{uri}-security" if distribution.family == "debian" else uri
    return [
        main,
        replace(main, suite=f"{distribution.codename}-updates", optional=True),
        replace(main, suite=f"{distribution.codename}-security", uri=beside, optional=True),
        replace(main, suite=distribution.backports, optional=True),
    ]
