"""The wire's words for what `model` has other words for, and the names of commands that come later."""

from __future__ import annotations

from enum import StrEnum

from agentkernel.model.kinds import Backend


class WireBackend(StrEnum):
    """A request's `backend`. The first four are the original ones; the others are growth."""

    FIRECRACKER = "firecracker"
    HYPERLIGHT = "hyperlight"
    DOCKER = "docker"
    APPLE = "apple"
    PODMAN = "podman"
    GVISOR = "gvisor"
    WASM = "wasm"
    AUTO = "auto"

    @property
    def choice(self) -> Backend | None:
        """What is meant: `firecracker` is any microVM; None for `auto`, which leaves the choice to policy."""
        if self is WireBackend.AUTO:
            return None
        return Backend.MICROVM if self is WireBackend.FIRECRACKER else Backend(self.value)


def wire_backend(backend: Backend) -> WireBackend:
    """How a reply names the backend used.

    A request for one of the original four is answered by the same word: a backend is used or refused, never replaced.
    """
    return WireBackend.FIRECRACKER if backend is Backend.MICROVM else WireBackend(backend.value)


LATER: frozenset[str] = frozenset(
    {
        *("exec_resize", "exec_attach", "archive_get", "forward", "events"),
        *(f"file_{verb}" for verb in ("read", "write", "list", "stat", "remove", "mkdir", "rename")),
        *(f"sandbox_{verb}" for verb in ("create", "start", "stop", "remove", "list", "inspect")),
    }
)
"""Commands that the protocol names and this version does not carry out: answered `Unsupported`, so that a client can
tell them from typos.
"""
