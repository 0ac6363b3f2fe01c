"""What every artefact is called: the digest of all that it is made from, computed without making it."""

from __future__ import annotations

import contextlib
import functools
import secrets
from collections.abc import Mapping
from pathlib import Path

from agentkernel.images import gvisor, kernel, modules, namespace, rootfs, tools
from agentkernel.images.manifest import FileFacts
from agentkernel.images.recipe import Cookbook, Recipe, digest_of
from agentkernel.images.shelf import Shelf
from agentkernel.images.sources import FALLBACK, Distribution, Source, choose, distribution_of, read_host
from agentkernel.images.trouble import explained
from agentkernel.model.errors import Refused
from agentkernel.model.ids import Digest

TOOLS = "_tools"
KERNEL = "_kernel"
GVISOR = "_gvisor"
"""Names of generations beside the runtimes'; no runtime can be called so."""


class Keys:
    """Names for one host, one environment, one data folder.

    Each has a generation in it, a token that changes whenever an artefact is given up. Packages get updates, so
    making the same thing
    again gives other bytes; a digest must never mean two things, because templates keep pages of an image in memory.
    """

    def __init__(self, environ: Mapping[str, str], shelf: Shelf, cookbook: Cookbook) -> None:
        self._environ = environ
        self._shelf = shelf
        self._cookbook = cookbook
        self._generations = shelf.data / "generations"
        self._sources: tuple[Source, ...] | None = None
        self._agent: tuple[tuple[int, int], str] | None = None
        self._runtimes: dict[str, tuple[list[Recipe], str, Digest]] = {}

    def runtime(self, name: str) -> Digest:
        """The image of a runtime. Raises NotFound, and Refused for a malformed recipe."""
        lineage, generation = self._cookbook.lineage(name), self._generation(name)
        if (kept := self._runtimes.get(name)) and kept[:2] == (lineage, generation):
            return kept[2]
        inputs = {
            "lineage": [recipe.digest_inputs() for recipe in lineage],
            "sources": self._lines(),
            "machine": tools.this_machine().name,
            "format": rootfs.FORMAT,
            "script": _script_digest(),
            "generation": generation,
        }
        digest = Digest(digest_of(inputs))
        self._runtimes[name] = (lineage, generation, digest)
        return digest

    def runtimes(self) -> dict[Digest, str]:
        """What each runtime's image is called now; a malformed recipe of the user's spoils only itself."""
        found: dict[Digest, str] = {}
        for name in self._cookbook.names():
            with contextlib.suppress(Refused):
                found[self.runtime(name)] = name
        return found

    def tools(self) -> Digest:
        """The private tree of host programs."""
        inputs = {"packages": tools.packages(tools.this_machine()), "sources": self._lines(), "format": 1}
        return Digest(digest_of({**inputs, "generation": self._generation(TOOLS)}))

    def gvisor(self) -> Digest:
        """The private tree of runsc."""
        inputs = {"packages": [gvisor.PACKAGE], "sources": self._lines(), "format": 1}
        return Digest(digest_of({**inputs, "generation": self._generation(GVISOR)}))

    def kernel(self) -> Digest:
        """The unpacked kernel and its modules."""
        inputs = {"package": self.kernel_package(), "newest": self.newest_kernel(), "sources": self._lines()}
        return Digest(
            digest_of({**inputs, "wanted": modules.WANTED, "generation": self._generation(KERNEL), "format": 1})
        )

    def kernel_package(self) -> str:
        """The package that leads to the kernel."""
        return tools.this_machine().kernel_packages[self.distribution().family]

    def newest_kernel(self) -> bool:
        """Whether the kernel comes from backports; AGENTKERNEL_KERNEL=stable says no."""
        choice = self._environ.get("AGENTKERNEL_KERNEL", "backports")
        if choice not in ("backports", "stable"):
            raise Refused(f"AGENTKERNEL_KERNEL is {choice!r}", hint="use backports or stable")
        return choice == "backports"

    def initramfs(self) -> Digest:
        """Kernel and agent together. Raises Unsupported when the agent is not built."""
        return Digest(digest_of({"kernel": self.kernel(), "agent": self._agent_digest(), "format": 1}))

    def _agent_digest(self) -> str:
        path = kernel.agent_binary(tools.this_machine().name)
        facts = path.stat()
        stamp = (facts.st_mtime_ns, facts.st_ino)
        if self._agent is None or self._agent[0] != stamp:
            self._agent = (stamp, FileFacts.of(path).sha256)
        return self._agent[1]

    # --- sources ---

    def has_archive(self) -> bool:
        """Whether there is an archive to take packages from."""
        return bool(self._environ.get("AGENTKERNEL_MIRROR")) or distribution_of(_os_release()) is not None

    def distribution(self) -> Distribution:
        """The host's, or the one that a mirror is taken to serve."""
        return distribution_of(_os_release()) or FALLBACK

    def sources(self) -> tuple[Source, ...]:
        """Where packages come from. Raises Unsupported when there is no such place."""
        if self._sources is None:
            self._sources = tuple(choose(read_host(), distribution_of(_os_release()), self._environ))
        return self._sources

    def _lines(self) -> list[str]:
        return [source.line() for source in self.sources()]

    # --- generations ---

    def forget(self, *names: str) -> None:
        """Let what is made next under these names be called something else, and be made from new package lists."""
        (self._shelf.data / "apt" / "updated").unlink(missing_ok=True)
        for name in names:
            (self._generations / name).unlink(missing_ok=True)

    def _generation(self, name: str) -> str:
        path = self._generations / name
        try:
            return path.read_text()
        except FileNotFoundError:
            pass
        self._shelf.prepare()
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            beside = path.with_name(f".{name}.{secrets.token_hex(4)}")
            beside.write_text(secrets.token_hex(8))
            with contextlib.suppress(FileExistsError):  # another process was first: its token counts
                path.hardlink_to(beside)
            beside.unlink()
            return path.read_text()
        except OSError as error:
            raise explained(error, doing="writing the data folder", folder=self._shelf.data) from error


@functools.cache
def _script_digest() -> str:
    return digest_of({"text": namespace.script().read_text()})


@functools.cache
def _os_release() -> str:
    for path in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        if path.is_file():
            return path.read_text(encoding="utf-8", errors="replace")
    return ""
