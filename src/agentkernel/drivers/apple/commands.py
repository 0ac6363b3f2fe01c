"""What `container` is told. Pure."""

from __future__ import annotations

from pathlib import Path

from agentkernel.model.ids import SandboxId
from agentkernel.model.spec import BootSpec

LABEL = "org.agentkernel.sandbox"
SANDBOX_UID = 1000
AGENT_FOLDER = "/.agentkernel"
AGENT = f"{AGENT_FOLDER}/agent"
"""Where a container finds our agent: a folder of ours, mounted read-only, because files alone cannot be."""
WRITABLE = ("/tmp", "/run", "/workspace", "/scratch", "/home/sandbox")  # noqa: S108  (inside the container)
IDLE_SOCKET = "/run/agentkernel.idle"
STOP_S = 1

VERSION = ("--version",)
STATUS = ("system", "status")
LIST = ("list", "--all", "--format", "json")


def name_of(sandbox: SandboxId) -> str:
    """The container of a sandbox; carries the id, so that a crash's leftovers are found."""
    return f"agentkernel-{sandbox}"


def run(sandbox: SandboxId, spec: BootSpec, agent_folder: Path) -> tuple[str, ...]:
    """Start a container whose process is our agent, waiting at a socket that nobody uses: it keeps the container alive.

    Nothing of its root is writable but memory, it has no network but a loopback, no capability, and uid 1000.
    """
    return (
        *("run", "--detach", "--interactive", "--name", name_of(sandbox), "--label", f"{LABEL}={sandbox}"),
        *("--cpus", str(spec.vcpus), "--memory", f"{spec.memory_mib}M"),
        *("--network", "none", "--no-dns", "--cap-drop", "ALL", "--read-only"),
        *(word for path in WRITABLE for word in ("--tmpfs", path)),
        *("--mount", f"type=bind,source={agent_folder},target={AGENT_FOLDER},readonly"),
        *("--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID)),
        *("--entrypoint", AGENT, "--progress", "none", spec.image_name),
        *("--run-directory", "/run/agentkernel-idle", "--socket", IDLE_SOCKET),
    )


def link(sandbox: SandboxId) -> tuple[str, ...]:
    """A second agent in that container, whose standard input and output are the guest link."""
    ids = ("--uid", str(SANDBOX_UID), "--gid", str(SANDBOX_UID))
    words = (AGENT, "--run-directory", "/run/agentkernel", "--stdio")
    return ("exec", "--interactive", *ids, name_of(sandbox), *words)


def stop(name: str) -> tuple[str, ...]:
    """Ask it to end, then make it."""
    return ("stop", "--time", str(STOP_S), name)


def delete(name: str) -> tuple[str, ...]:
    """Have it gone, running or not."""
    return ("delete", "--force", name)


def inspect(name: str) -> tuple[str, ...]:
    """Facts of one container, as JSON."""
    return ("inspect", name)


def inspect_image(name: str) -> tuple[str, ...]:
    """Facts of one image that is here, as JSON."""
    return ("image", "inspect", name)


def pull(name: str) -> tuple[str, ...]:
    """Fetch an image."""
    return ("image", "pull", "--progress", "none", name)
