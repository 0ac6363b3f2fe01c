"""The configuration: one schema, each key with its default and its meaning.

The values here are what holds after all layers were applied; `layers` applies them. A key's rule says which values
are well formed and what a project's file, taken from a directory that nobody vouches for, may do with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from agentkernel.model.kinds import Backend, Isolation, Mode
from agentkernel.policy import presets
from agentkernel.policy.images import IMAGE_PATTERN

RUNTIME_PATTERN = r"[a-z0-9][a-z0-9._-]{0,62}"


class Project(Enum):
    """What a project's file may do with a key."""

    NEVER = "never"
    FREELY = "freely"
    SMALLER = "smaller only"
    STRICTER = "stricter only"


@dataclass(frozen=True, slots=True)
class Rule:
    """One key.

    Attributes:
        kind: type of the value in TOML; `list` is a list of strings.
        low, high: bounds of an integer.
        choices: allowed strings (of a list: allowed items), for STRICTER ones the strictest first; empty for any.
        pattern: what a string matches as a whole; empty strings always pass.
        effective: whether this version does anything with it; one that does nothing is said so where it is set.
    """

    meaning: str
    kind: type
    project: Project = Project.NEVER
    low: int = 0
    high: int = 2**53
    choices: tuple[str, ...] = ()
    pattern: str = ""
    effective: bool = True


def key(default: Any, meaning: str, kind: type | None = None, **rule: Any) -> Any:
    """A dataclass field that carries its rule. `kind` is the default's type unless given."""
    return field(default=default, metadata={"rule": Rule(meaning, kind or type(default), **rule)})


@dataclass(frozen=True, slots=True)
class Sandbox:
    """`[sandbox]`"""

    name: str = key(
        "", "Name of the project's sandbox.", project=Project.FREELY, pattern=RUNTIME_PATTERN, effective=False
    )
    runtime: str = key(
        "",
        "Recipe of the root file system; empty: by the command.",
        project=Project.FREELY,
        pattern=RUNTIME_PATTERN,
        effective=False,
    )
    image: str = key(
        "",
        "Image by name that takes the place of a request's runtime where it names no image itself; empty: none. A "
        "project may not set it: an engine of the host fetches it, from where the name says.",
        pattern=IMAGE_PATTERN,
    )


@dataclass(frozen=True, slots=True)
class Resources:
    """`[resources]`"""

    vcpus: int = key(presets.VCPUS, "Virtual processors.", project=Project.SMALLER, low=1, high=64)
    memory_mb: int = key(presets.MEMORY_MIB, "Memory, MiB.", project=Project.SMALLER, low=64, high=1024 * 1024)
    disk_mb: int = key(
        presets.DISK_MIB, "Private writable disk, MiB.", project=Project.SMALLER, low=16, high=1024 * 1024
    )
    pids: int = key(presets.PIDS, "Processes at once.", project=Project.SMALLER, low=16, high=4_194_304)


@dataclass(frozen=True, slots=True)
class Domains:
    """`[security.domains]`"""

    allow: tuple[str, ...] = key((), "Hosts that may be reached; not in this version.", list, project=Project.STRICTER)
    block: tuple[str, ...] = key(
        (), "Hosts that may never be reached; nothing can be in this version.", list, project=Project.STRICTER
    )


@dataclass(frozen=True, slots=True)
class Security:
    """`[security]`"""

    profile: str = key(
        "moderate",
        "How much a sandbox may; only `moderate` in this version.",
        project=Project.STRICTER,
        choices=("restrictive", "moderate", "permissive"),
    )
    network: str = key(
        "none",
        "Outbound network; only `none` in this version.",
        project=Project.STRICTER,
        choices=("none", "domains", "open"),
    )
    minimum_isolation: str = key(
        "",
        "Refuse weaker tiers; empty: none is refused.",
        project=Project.STRICTER,
        choices=(*Isolation, ""),
    )
    allow_unlimited: bool = key(
        False,
        "Run containers and gVisor also where this host lets nobody hold them to memory, processors and processes "
        "(a user without root on cgroup v1).",
        project=Project.NEVER,
    )
    share_template_memory: bool = key(
        True,
        "Let clones share memory pages with their template; without it every sandbox boots cold.",
        project=Project.STRICTER,
    )
    domains: Domains = field(default_factory=Domains)


@dataclass(frozen=True, slots=True)
class Agent:
    """`[agent]`"""

    preferred: str = key(
        "", "Agent that `agentkernel` sets up by default.", choices=("", "claude", "codex", "gemini"), effective=False
    )
    compatibility_mode: str = key("native", "Mode when a request names none.", choices=tuple(Mode), effective=False)


@dataclass(frozen=True, slots=True)
class Microvm:
    """`[microvm]`"""

    vmm: str = key(
        "auto",
        "Which monitor makes microVMs; `auto`: the strongest that works here.",
        choices=("auto", "firecracker", "qemu"),
    )
    firecracker: str = key(
        "",
        "Firecracker's program, with `jailer` beside it; empty: FIRECRACKER_BIN, what `agentkernel setup --firecracker "
        "PATH` copied, PATH, in that order.",
    )


@dataclass(frozen=True, slots=True)
class Docker:
    """`[docker]`"""

    host: str = key(
        "",
        "Where the engine listens, as in DOCKER_HOST (`unix:///run/docker.sock`, `tcp://HOST:2376`); empty: "
        "DOCKER_HOST, the current context, the usual places, in that order.",
    )
    runtime: str = key(
        "", "OCI runtime that the engine runs sandboxes with, such as `runsc`; empty: the engine's default."
    )


@dataclass(frozen=True, slots=True)
class Podman:
    """`[podman]`"""

    host: str = key(
        "", "Where podman's API service listens; empty: CONTAINER_HOST, then the usual places, in that order."
    )


@dataclass(frozen=True, slots=True)
class Images:
    """`[images]`"""

    registry: str = key(
        "",
        "Registry of images whose name says none: `HOST[:PORT][/NAMESPACE]`, for microVMs and gVisor; empty: none.",
        pattern=r"[A-Za-z0-9.\[\]:-]+(?:/[a-z0-9._/-]+)?",
    )


@dataclass(frozen=True, slots=True)
class Pool:
    """`[pool]`"""

    prewarm: tuple[str, ...] = key(("native",), "Modes that fill at daemon start.", list, choices=tuple(Mode))
    prewarm_backend: str = key(
        "firecracker",
        "Backend that fills them; `firecracker`: any microVM, as in requests. Where nobody sets it, that of "
        "AGENTKERNEL_BACKEND.",
        choices=("firecracker", *(backend for backend in Backend if backend is not Backend.MICROVM), "auto"),
    )
    min_warm: int | None = key(None, "Kept warm per preset, at least; default: the preset's.", int, high=1024)
    max_warm: int | None = key(None, "Kept warm per preset, at most; default: the preset's.", int, high=1024)
    max_sandboxes: int = key(32, "Sandboxes on this host at once.", low=1, high=65536)
    max_age_s: int = key(300, "A warm sandbox older than this is replaced.", low=1)
    templates: bool = key(True, "Clone sandboxes from a template where the driver can; else every one boots cold.")
    idle_pause_s: int = key(20, "Pause warm sandboxes unused this long, seconds; 0: never.")
    queue_timeout_s: int = key(60, "How long a request waits for room.", low=1)
    lease_ttl_s: int = key(3600, "A lease ends this long after its last use.", low=1)


@dataclass(frozen=True, slots=True)
class Daemon:
    """`[daemon]`"""

    socket: str = key(
        "",
        "Path of the socket; empty: `daemon.sock` in the state directory. Only `AGENTKERNEL_SOCKET` moves it, because "
        "clients read no file.",
        effective=False,
    )
    idle_exit_s: int = key(600, "The daemon ends when unused this long; 0: never.")
    log_format: str = key("text", "Form of the log.", choices=("text", "json"))
    output_cap_bytes: int = key(4 * 1024 * 1024, "Most text of one output stream in a reply.", low=1024, high=2**30)
    line_cap_bytes: int = key(1024 * 1024, "Longest request line.", low=1024, high=2**30)


@dataclass(frozen=True, slots=True)
class Config:
    """All of it."""

    sandbox: Sandbox = field(default_factory=Sandbox)
    resources: Resources = field(default_factory=Resources)
    security: Security = field(default_factory=Security)
    agent: Agent = field(default_factory=Agent)
    microvm: Microvm = field(default_factory=Microvm)
    docker: Docker = field(default_factory=Docker)
    podman: Podman = field(default_factory=Podman)
    images: Images = field(default_factory=Images)
    pool: Pool = field(default_factory=Pool)
    daemon: Daemon = field(default_factory=Daemon)


@dataclass(frozen=True, slots=True)
class Key:
    """A key's place, `section.key`, its rule and default."""

    path: str
    rule: Rule
    default: Any


def _keys(section: Any, prefix: str) -> Sequence[Key]:
    found: list[Key] = []
    for item in fields(section):
        value = getattr(section, item.name)
        if "rule" in item.metadata:
            found.append(Key(f"{prefix}{item.name}", item.metadata["rule"], value))
        else:
            found += _keys(value, f"{prefix}{item.name}.")
    return found


KEYS: dict[str, Key] = {found.path: found for found in _keys(Config(), "")}
"""Every key by its path; what the reference page and `layers` are made of."""
