"""What a sandbox's container is: everything that it may have, and nothing that its image or the engine would add. Pure.

Its disk is in memory: engines cannot hold a container to a size of disk, so `/workspace` and `/scratch` are file
systems in memory, bounded, and their size is added to the memory that the container may take.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agentkernel.drivers.hardening import MASKED, READ_ONLY, profile
from agentkernel.model.ids import SandboxId
from agentkernel.model.spec import BootSpec

LABEL = "agentkernel.sandbox"
TRIAL_LABEL = "agentkernel.trial"
"""Of a container that no journal knows."""
AGENT_PLACE = "/.agentkernel"
USER = "1000:1000"
CPU_NANO = 1_000_000_000
OWN_PIDS = 1
"""The agent itself."""
OOM_SCORE_ADJ = 200
"""A sandbox is a better victim than the host's own programs."""
MIB = 1 << 20
INODES_PER_MIB = 512
"""A file with content takes a page of memory, 256 to the MiB; empty files and folders must not be without number."""
LEAST_MIB = 1
OWN_ADDRESS = "127.0.1.1"
"""What a host's own name means where it has no network."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What engines that serve one API still spell differently.

    Attributes:
        owner: options that give a file system in memory to the container's user.
        paths_by_option: hidden paths are told as security options; else as fields.
        profile_by_path: a seccomp profile is told by the path of a file on the engine's host; else by its text.
        inodes: a file system in memory can be told how many files it may have.
        names_by_option: `/etc/hosts` is the engine's, and takes further names.
    """

    owner: str = "uid=1000,gid=1000"
    paths_by_option: bool = False
    profile_by_path: bool = False
    inodes: bool = True
    names_by_option: bool = True


DOCKER = Dialect()
PODMAN = Dialect(owner="U", paths_by_option=True, profile_by_path=True, inodes=False, names_by_option=False)


@dataclass(frozen=True, slots=True)
class Limits:
    """Which limits the engine can hold a container to."""

    memory: bool = True
    swap: bool = True
    cpu: bool = True
    pids: bool = True

    def missing(self) -> list[str]:
        """Those that it cannot, as people call them."""
        named = {"memory": self.memory, "swap": self.swap, "processors": self.cpu, "processes": self.pids}
        return [name for name, held in named.items() if not held]


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """Paths on this host.

    Attributes:
        profile: the seccomp profile.
        hosts: stands at `/etc/hosts`, for an engine that else writes this host's names there.
    """

    profile: str
    hosts: str


@dataclass(frozen=True, slots=True)
class Container:
    """One container to be made.

    Attributes:
        image: the engine's id of it.
        agent_volume: name of the volume that holds the agent.
        machine: the engine's processor, as `uname -m` calls it.
        volumes: paths that the image wants volumes at, which would be on the engine's disk and know no bound.
        files: for an engine that takes some things by path and can read ours; else it uses its own.
        runtime: the OCI runtime; empty for the engine's default.
        trial: made by a probe, and nobody's.
    """

    sandbox: SandboxId
    hostname: str
    spec: BootSpec
    image: str
    agent_volume: str
    machine: str
    dialect: Dialect = DOCKER
    limits: Limits = field(default_factory=Limits)
    volumes: Sequence[str] = ()
    files: LocalFiles | None = None
    runtime: str = ""
    trial: bool = False

    @property
    def name(self) -> str:
        """Found again by it after a crash, also where nobody heard the engine's answer."""
        return name_of(self.sandbox)


def name_of(sandbox: SandboxId) -> str:
    """The name of a sandbox's container."""
    return f"agentkernel-{sandbox}"


def creation(container: Container) -> dict[str, object]:
    """The body of `POST /containers/create`."""
    return {
        "Image": container.image,
        "Entrypoint": [f"{AGENT_PLACE}/agent"],
        "Cmd": ["--stdio"],
        "Env": [],
        "User": USER,
        "WorkingDir": "/",
        "Hostname": container.hostname,
        "Healthcheck": {"Test": ["NONE"]},
        "StopSignal": "SIGKILL",
        "Labels": {LABEL: container.sandbox} | ({TRIAL_LABEL: ""} if container.trial else {}),
        "Tty": False,
        "OpenStdin": True,
        "StdinOnce": True,
        "AttachStdin": True,
        "AttachStdout": True,
        "AttachStderr": True,
        # With the network that has nothing but a loopback; without any, Docker would write no names.
        "NetworkDisabled": not container.dialect.names_by_option,
        "HostConfig": _host_config(container),
    }


def _host_config(container: Container) -> dict[str, object]:
    return {
        "AutoRemove": True,
        # Whatever passes over the link would else be kept by the engine, in a file.
        "LogConfig": {"Type": "none", "Config": {}},
        "NetworkMode": "none",
        "ReadonlyRootfs": True,
        "CapDrop": ["ALL"],
        "Init": False,
        "IpcMode": "private",
        "CgroupnsMode": "private",
        "UTSMode": "",
        "OomScoreAdj": OOM_SCORE_ADJ,
        "ShmSize": shares(container.spec)["/dev/shm"] * MIB,  # noqa: S108
        **({"ExtraHosts": [f"{container.hostname}:{OWN_ADDRESS}"]} if container.dialect.names_by_option else {}),
        "Mounts": _mounts(container),
        "Tmpfs": _file_systems(container),
        **({"Runtime": container.runtime} if container.runtime else {}),
        **_limits(container),
        **_hidden(container),
    }


def _mounts(container: Container) -> list[dict[str, object]]:
    mounts: list[dict[str, object]] = [
        {"Type": "volume", "Source": container.agent_volume, "Target": AGENT_PLACE, "ReadOnly": True}
    ]
    if container.files:
        mounts.append({"Type": "bind", "Source": container.files.hosts, "Target": "/etc/hosts", "ReadOnly": True})
    return mounts


def _limits(container: Container) -> dict[str, object]:
    spec, held = container.spec, container.limits
    memory = (spec.memory_mib + spec.disk_mib) * MIB
    limits: dict[str, object] = {}
    if held.memory:
        limits["Memory"] = memory
    if held.memory and held.swap:
        limits["MemorySwap"] = memory  # both together: none of it may be swap
    if held.cpu:
        limits["NanoCpus"] = spec.vcpus * CPU_NANO
    if held.pids:
        limits["PidsLimit"] = spec.pids + OWN_PIDS
    return limits


def _hidden(container: Container) -> dict[str, object]:
    options = ["no-new-privileges"]
    dialect = container.dialect
    if not dialect.profile_by_path:
        options.append(f"seccomp={json.dumps(profile(container.machine), separators=(',', ':'))}")
    elif container.files:
        options.append(f"seccomp={container.files.profile}")
    if dialect.paths_by_option:
        return {"SecurityOpt": [*options, f"mask={':'.join(MASKED)}"]}
    return {"SecurityOpt": options, "MaskedPaths": list(MASKED), "ReadonlyPaths": list(READ_ONLY)}


def shares(spec: BootSpec) -> dict[str, int]:
    """Sizes of what is in memory, in MiB. All but the disk take less than half of what programs have."""
    scratch = spec.disk_mib // 4
    return {
        "/workspace": max(LEAST_MIB, spec.disk_mib - scratch),
        "/scratch": max(LEAST_MIB, scratch),
        "/tmp": max(LEAST_MIB, spec.memory_mib // 4),  # noqa: S108
        "/home/sandbox": max(LEAST_MIB, spec.memory_mib // 8),
        "/dev/shm": max(LEAST_MIB, spec.memory_mib // 32),  # noqa: S108
        "/var/tmp": max(LEAST_MIB, spec.memory_mib // 32),  # noqa: S108
        "/run": LEAST_MIB,
        "/run/agentkernel": LEAST_MIB,
    }


def _file_systems(container: Container) -> Mapping[str, str]:
    """Mount point to options. The user's own, those that all share, and the root's."""
    sizes = shares(container.spec)
    own = ("/workspace", "/scratch", "/home/sandbox", "/run/agentkernel")
    modes = {"/tmp": "1777", "/var/tmp": "1777", "/run": "0755"}  # noqa: S108
    always = "rw,nosuid,nodev,exec"

    def sized(mib: int) -> str:
        return f"{always},size={mib}m" + (f",nr_inodes={mib * INODES_PER_MIB}" if container.dialect.inodes else "")

    found = {at: f"{sized(sizes[at])},mode=0755,{container.dialect.owner}" for at in own}
    found |= {at: f"{sized(sizes[at])},mode={mode}" for at, mode in modes.items()}
    for at in container.volumes:
        size = max(LEAST_MIB, container.spec.memory_mib // 32)
        found.setdefault(at.rstrip("/") or "/", f"{sized(size)},mode=1777")
    return found
