"""Build a Dockerfile with a builder that this host has; what comes out is an archive like any other.

The builder is the user's: it runs as the user, with its own isolation and the host's network, as it does without us.
What it made is then taken as a stranger's image is.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from agentkernel.images import namespace, process
from agentkernel.images.oci.reference import Form, Local
from agentkernel.images.trouble import ChildError
from agentkernel.model.errors import Refused, Unsupported

_TAG = "agentkernel-built:latest"
_ENVIRONMENT = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_HOST", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE")


async def build(context: Path, work: Path, tell: Callable[[str], None]) -> Local:
    """Build the `Dockerfile` (or `Containerfile`) of a folder into an archive below `work`, which is the caller's.

    Raises:
        Refused: there is none, or it does not build; the message has the builder's last words.
        Unsupported: this host has no builder.
    """
    if not any((context / name).is_file() for name in ("Dockerfile", "Containerfile")):
        raise Refused(f"there is no Dockerfile in {context}", hint="name the folder that holds it")
    try:
        if buildah := shutil.which("buildah"):
            return await _by_buildah(buildah, context, work, tell)
        if docker := shutil.which("docker"):
            return await _by_docker(docker, context, work, tell)
    except ChildError as error:
        raise Refused(f"{context} does not build: {error.message}", hint=_last_words(error)) from error
    raise Unsupported(
        "building a Dockerfile needs a builder, and this host has neither buildah nor docker",
        hint="install buildah, or build elsewhere and use docker-archive:FILE",
    )


async def _by_buildah(buildah: str, context: Path, work: Path, tell: Callable[[str], None]) -> Local:
    """With a store of its own, so that nothing is left in the user's. `chroot` is the isolation that needs neither
    daemon nor cgroups nor root."""
    store: list[str | Path] = [buildah, "--root", work / "root", "--runroot", work / "run", "--storage-driver", "vfs"]
    archive = work / "built.tar"
    try:
        await _run([*store, "build", "--isolation", "chroot", "--tag", _TAG, context], tell)
        await _run([*store, "push", _TAG, f"oci-archive:{archive}"], tell)
    finally:
        for name in ("root", "run"):
            if (work / name).exists():
                await namespace.remove(work / name)
    return Local(Form.OCI_ARCHIVE, archive)


async def _by_docker(docker: str, context: Path, work: Path, tell: Callable[[str], None]) -> Local:
    """What the engine built stays in its store, as everything that it builds."""
    archive, name = work / "built.tar", work / "id"
    await _run([docker, "build", "--iidfile", name, context], tell)
    await _run([docker, "save", "--output", archive, name.read_text().strip()], tell)
    return Local(Form.DOCKER_ARCHIVE, archive)


async def _run(argv: list[str | Path], tell: Callable[[str], None]) -> None:
    environment = process.caller_environment("BUILDAH_")
    for variable in _ENVIRONMENT:
        environment |= process.caller_environment(variable)
    await process.run(argv, env=environment, on_line=lambda line: tell(f"build {line.strip()[:100]}"))


def _last_words(error: ChildError) -> str:
    lines = [line.strip() for line in error.output.splitlines() if line.strip()]
    return "; ".join(lines[-3:])[-300:] or "the builder said nothing"
