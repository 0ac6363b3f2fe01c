"""Packages from the archive: a private apt, with its own state below the data folder, that never touches the host's.

apt checks the archive's signatures and what it downloads; every package is hashed once more against the signed index
before it is used.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import anyio.to_thread

from agentkernel.images import process
from agentkernel.images.namespace import user_name
from agentkernel.images.progress import Progress
from agentkernel.images.sources import Distribution, Source
from agentkernel.images.trouble import ChildError, free_mib, no_space
from agentkernel.model.errors import AgentkernelError, Unsupported

_LISTS_FRESH_S = 3600
"""How old package lists may be before they are fetched again."""
_HOST_SETTINGS_LEFT_OUT = re.compile(r"^Acquire::(Allow|IndexTargets|Changelogs|cdrom|CompressionTypes)|^Acquire \"")
"""Of the host's settings we take how to reach an archive (proxies, timeouts), never permission to skip signatures."""


@dataclass(frozen=True, slots=True)
class Package:
    """One package file of a closure."""

    name: str
    version: str
    file: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Closure:
    """What apt would install for a request, with the room it takes."""

    packages: tuple[Package, ...]
    unpacked_bytes: int

    @property
    def download_bytes(self) -> int:
        """Sum of the package files."""
        return sum(package.size for package in self.packages)

    def versions(self) -> dict[str, str]:
        """Package name to version."""
        return {package.name: package.version for package in sorted(self.packages, key=lambda p: p.name)}


@dataclass
class PrivateApt:
    """apt-get over `sources`, with everything it keeps below `folder`. One at a time: the caller holds a lock."""

    folder: Path
    sources: Sequence[Source]
    distribution: Distribution
    _environment: dict[str, str] = field(default_factory=dict, init=False)

    @property
    def debs(self) -> Path:
        """The shared cache of package files."""
        return self.folder / "debs"

    async def update(self, progress: Progress, stage: str) -> None:
        """Fetch the package lists unless they are fresh. Optional suites that the archive lacks are left out.

        Raises:
            Unsupported: this host has no apt.
            ChildError: the archive cannot be reached or is not signed as it should be.
        """
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise Unsupported(
                "this host has no apt-get and dpkg-deb to fetch packages with",
                hint="install apt and dpkg, or install the tools and kernel as README.md lists them for your "
                "distribution",
            )
        for name in ("lists/partial", "debs/partial", "empty/partial"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        await self._configure()
        text = "".join(f"{source.line()}\n" for source in self.sources)
        stamp = self.folder / "updated"
        if self._is_fresh(stamp, text):
            return
        progress(stage, "package lists")
        stamp.unlink(missing_ok=True)
        await self._fetch_lists(text)
        stamp.write_text(text)

    def _is_fresh(self, stamp: Path, text: str) -> bool:
        try:
            return time.time() - stamp.stat().st_mtime < _LISTS_FRESH_S and stamp.read_text() == text
        except FileNotFoundError:
            return False

    async def _fetch_lists(self, text: str) -> None:
        file = self.folder / "sources.list"
        file.write_text(text)
        try:
            await self._apt("update", "-q", "-o", "APT::Update::Error-Mode=any")
        except ChildError:
            if not any(source.optional for source in self.sources):
                raise
            file.write_text("".join(f"{source.line()}\n" for source in self.sources if not source.optional))
            await self._apt("update", "-q", "-o", "APT::Update::Error-Mode=any")

    async def _configure(self) -> None:
        """Write apt.conf. APT_CONFIG is read first, so it can keep the host's files (and their hooks) from being read
        at all."""
        if self._environment:
            return
        here = str(self.folder)
        if '"' in here or "\n" in here:
            raise Unsupported(f"the data folder's name cannot be written into apt's configuration: {here!r}")
        settings = {
            "Acquire::IndexTargets::deb::Translations::DefaultEnabled": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "APT::Architecture": await debian_architecture(),
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": user_name(),
            "Debug::NoLocking": "true",
            "Dir::Cache": f"{here}/cache",
            "Dir::Cache::archives": f"{here}/debs",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "Dir::Etc::sourcelist": f"{here}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Log": f"{here}/log",
            "Dir::State::extended_states": f"{here}/extended",
            "Dir::State::lists": f"{here}/lists",
            "Dir::State::status": f"{here}/status",
        }
        (self.folder / "cache").mkdir(exist_ok=True)
        (self.folder / "status").touch()
        lines = await self._host_settings()
        lines += [f'{name} "{value}";' for name, value in settings.items()]
        (self.folder / "apt.conf").write_text("\n".join(lines) + "\n")
        self._environment = process.plain_environment(APT_CONFIG=f"{here}/apt.conf", DEBIAN_FRONTEND="noninteractive")

    async def _host_settings(self) -> list[str]:
        dump = await process.run(["apt-config", "dump"])
        wanted = (line for line in dump.splitlines() if line.startswith("Acquire::"))
        return [
            line
            for line in wanted
            if not _HOST_SETTINGS_LEFT_OUT.match(line) and not line.startswith("Acquire::Languages")
        ]

    async def _apt(self, *words: str) -> str:
        return await process.run(["apt-get", *words], env=self._environment)

    def has_backports(self) -> bool:
        """Whether the fetched lists include the backports suite."""
        return any(f"_{self.distribution.backports}_" in path.name for path in (self.folder / "lists").iterdir())

    async def closure(self, names: Iterable[str], *, newest: bool = False, installed: Path | None = None) -> Closure:
        """What has to be installed for `names` on top of the dpkg status file `installed`, or on nothing at all.

        Args:
            newest: prefer backports.

        Raises:
            AgentkernelError: a package does not exist or cannot be installed.
        """
        options = ["-o", f"Dir::State::status={installed}"] if installed else []
        if newest and self.has_backports():
            options += ["-t", self.distribution.backports]
        request = [
            "-q",
            *options,
            "-o",
            f"Dir::Cache::archives={self.folder / 'empty'}",
            "install",
            "--print-uris",
            *names,
        ]
        output = await self._apt(*request)
        files = [line.split()[1:3] for line in output.splitlines() if line.startswith("'")]
        wanted = [(*_name_and_version(file), int(size), file) for file, size in files]
        digests = await self._digests([f"{name}={version}" for name, version, _, _ in wanted])
        packages = tuple(
            Package(name, version, file, size, digests[name, version]) for name, version, size, file in wanted
        )
        return Closure(packages, _unpacked_bytes(output))

    async def _digests(self, exact: list[str]) -> dict[tuple[str, str], str]:
        """SHA-256 of packages by name and version, from the signed index."""
        if not exact:
            return {}
        text = await process.run(["apt-cache", "show", *exact], env=self._environment)
        found: dict[tuple[str, str], str] = {}
        for stanza in text.split("\n\n"):
            fields = dict(re.findall(r"^(Package|Version|SHA256): (.+)$", stanza, re.MULTILINE))
            if len(fields) == 3:
                found[fields["Package"], fields["Version"]] = fields["SHA256"]
        return found

    async def fetch(self, closure: Closure, progress: Progress, stage: str, *, times_unpacked: int = 1) -> list[Path]:
        """Have all package files of a closure in the cache, each checked against its digest; what is there already is
        kept.

        Args:
            times_unpacked: how often what is in them will lie on the disk at the same time, for the check of free room.

        Raises:
            Busy: there is not room for them and for what they hold.
            AgentkernelError: a package is not what the index says.
        """
        missing = [
            package for package in closure.packages if not await anyio.to_thread.run_sync(self._is_good, package)
        ]
        download = sum(package.size for package in missing)
        need_mib = (download + times_unpacked * closure.unpacked_bytes) // (1 << 20)
        if free_mib(self.folder) < need_mib:
            raise no_space(f"fetching packages for {stage}", self.folder, need_mib)
        if missing:
            progress(stage, "download", 0, download)
            exact = [f"{package.name}={package.version}" for package in missing]
            download_words = ["-qq", "-o", "APT::Status-Fd=1", "download", *exact]
            await self._download(download_words, progress, download, stage)
        for package in missing:
            if not await anyio.to_thread.run_sync(self._is_good, package):
                raise AgentkernelError(
                    f"package {package.file} is not what the archive's signed index says",
                    hint="run the same again; if it stays, choose another mirror",
                )
        return [self.debs / package.file for package in closure.packages]

    async def _download(self, words: list[str], progress: Progress, total: int, stage: str) -> None:
        def show(line: str) -> None:
            if (percent := _percent(line)) is not None:
                progress(stage, "download", int(total * percent / 100), total)

        await process.run(["apt-get", *words], env=self._environment, cwd=self.debs, on_line=show)

    def _is_good(self, package: Package) -> bool:
        path = self.debs / package.file
        try:
            with path.open("rb") as stream:
                good = hashlib.file_digest(stream, "sha256").hexdigest() == package.sha256
        except FileNotFoundError:
            return False
        if not good:
            path.unlink()
        return good


async def debian_architecture() -> str:
    """The distribution's own word for this machine, `amd64`."""
    return (await process.run(["dpkg", "--print-architecture"])).strip()


def _name_and_version(file: str) -> tuple[str, str]:
    """From `libc6_2.36-9+deb12u10_amd64.deb`; apt writes the colon of an epoch as %3a."""
    name, version, _ = file.rsplit("_", 2)
    return name, version.replace("%3a", ":")


def _percent(line: str) -> float | None:
    """From apt's status lines, `dlstatus:4:37.5:Retrieving file 4 of 9`."""
    if not line.startswith(("dlstatus:", "pmstatus:")):
        return None
    parts = line.split(":")
    try:
        return float(parts[2])
    except (IndexError, ValueError):
        return None


_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9}


def _unpacked_bytes(output: str) -> int:
    """From `After this operation, 172 MB of additional disk space will be used.`"""
    found = re.search(r"After this operation, ([\d.,]+) ([kMG]?B) of additional disk space", output)
    return int(float(found[1].replace(",", "")) * _UNITS[found[2]]) if found else 0
