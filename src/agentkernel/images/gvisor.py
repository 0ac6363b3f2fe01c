"""runsc: from a private tree of its own where the host has apt, from the system elsewhere.

Apart from the other tools, so that who uses microVMs alone does not fetch it, and an update of one leaves the other.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import anyio.to_thread

from agentkernel.images import process
from agentkernel.images.manifest import FileFacts
from agentkernel.images.packages import Closure
from agentkernel.images.shelf import Artefact, Recorded
from agentkernel.images.tools import ROOT, HostTool
from agentkernel.model.errors import Unsupported
from agentkernel.model.ids import Digest

PACKAGE = "runsc"
PROGRAM = "runsc"
PLACE = "usr/bin/runsc"
OLDEST = 20240325
"""The date in a release's name. Root file systems in erofs and the systrap platform as it is driven here are in it."""


async def build_tree(folder: Path, debs: Sequence[Path], closure: Closure) -> Recorded:
    """Unpack packages into `folder/root` and ask runsc for its version.

    Raises:
        Unsupported: the archive's is too old.
    """
    root = folder / ROOT
    root.mkdir()
    root.chmod(0o755)  # whatever the builder's umask: a confined runsc is another user
    for deb in debs:
        await process.run(["dpkg-deb", "--extract", deb, root])
    await anyio.to_thread.run_sync(lambda: shutil.rmtree(root / "usr/share", ignore_errors=True))
    version = await _version([str(root / PLACE)])
    return Recorded(
        files=[f"{ROOT}/{PLACE}"],
        inputs={"packages": [PACKAGE]},
        versions=closure.versions(),
        facts={PROGRAM: version},
        tree=ROOT,
    )


def from_tree(tree: Artefact) -> HostTool:
    """runsc of the private tree."""
    root = tree.file(ROOT)
    return HostTool(f"/{PLACE}", root, tree.manifest.facts[PROGRAM], tree.digest, (str(root / PLACE),))


async def from_system() -> HostTool:
    """The system's runsc. Raises Unsupported when there is none, or one that is too old."""
    found = shutil.which(PROGRAM)
    if found is None:
        raise Unsupported(
            f"this system has no {PROGRAM}", hint="install gVisor (runsc) with the system's package manager"
        )
    version = await _version([found])
    facts = await anyio.to_thread.run_sync(FileFacts.of, Path(found))
    return HostTool(found, Path("/"), version, Digest(facts.sha256), (found,))


async def _version(command: Sequence[str]) -> str:
    """As it says it, `0.0~20240729.0` or `release-20240729.0`. Raises Unsupported when it is too old."""
    return checked(await process.run([*command, "--version"]))


def checked(said: str) -> str:
    """The version in what `runsc --version` says. Raises Unsupported when it is too old, or says no date."""
    found = re.search(r"version (\S*?(\d{8})\S*)", said)
    if found is None or int(found[2]) < OLDEST:
        version = found[1] if found else "that does not tell its version"
        raise Unsupported(
            f"runsc {version} is too old, {OLDEST} or later is needed",
            hint="Debian 12 has it in backports: let AGENTKERNEL_MIRROR or the host's sources name them",
        )
    return found[1]
