"""What a sandbox is asked to be. Two values: fixed at boot (and so the pool's key), applied at claim."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Backend, Vmm


@dataclass(frozen=True, slots=True)
class BootSpec:
    """All that a driver cannot change once a sandbox runs. Hashable: the key of pools and of templates.

    Attributes:
        runtime: the recipe's name, `[a-z0-9][a-z0-9._-]{0,62}`; empty where `image_name` is not.
        image: digest of the root file system; of an image by name, what its driver told (`ImageFacts.digest`).
        image_name: an image that is not a recipe of ours, as the caller named it.
        vmm: which monitor, for `Backend.MICROVM`; None elsewhere.
        disk_mib: size of the private writable disk (`/scratch`, `/workspace`).
        pids: most processes at once inside.
        warm_up: throwaway commands of its recipe, run in each new one while nobody waits, and in its template.
    """

    backend: Backend
    runtime: str
    image: Digest
    vmm: Vmm | None = None
    vcpus: int = 1
    memory_mib: int = 512
    disk_mib: int = 1024
    pids: int = 512
    image_name: str = ""
    warm_up: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Rlimit:
    """One resource limit: Linux number, soft and hard value."""

    resource: int
    soft: int
    hard: int


@dataclass(frozen=True, slots=True)
class LeaseSpec:
    """What is applied when a sandbox is claimed.

    Attributes:
        env: added to what SPECIFICATION 4 says a program finds.
        cwd: absolute; `/workspace` when empty.
        user: name, or `uid[:gid]`; `sandbox` when empty.
        command: what runs when a request names no command; empty where one has to.
    """

    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    rlimits: tuple[Rlimit, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """An image by name, as it was found, and what it says of the commands that run in it (OCI image configuration).

    Attributes:
        digest: names its content on this host; the same name may have another one tomorrow.
        env: `NAME: value`.
        cwd: absolute, or empty.
        user: as `LeaseSpec.user`; what a driver without `USER_ROOT` makes of it is that driver's business.
        entrypoint, command: what the image starts when nobody says what.
    """

    digest: Digest
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
