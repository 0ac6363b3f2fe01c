"""Containers of an engine: made, attached to, greeted, used once, removed."""

from __future__ import annotations

import asyncio
import json
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from agentkernel.drivers.contract import Artifacts, Birth, Driver, Guest, Tell
from agentkernel.drivers.docker.api import EngineApi, EngineRefused, as_ours
from agentkernel.drivers.docker.attach import AttachedStream
from agentkernel.drivers.docker.confinement import QUESTION, weaknesses
from agentkernel.drivers.docker.container import (
    LABEL,
    MIB,
    OWN_PIDS,
    TRIAL_LABEL,
    Container,
    LocalFiles,
    creation,
    name_of,
)
from agentkernel.drivers.docker.endpoint import Endpoint
from agentkernel.drivers.docker.engine import EngineFacts, facts_of, unheld
from agentkernel.drivers.docker.guest import ContainerGuest
from agentkernel.drivers.docker.images import EngineImages, Found
from agentkernel.drivers.hardening import profile
from agentkernel.model.errors import AgentkernelError, Broken, Unsupported
from agentkernel.model.execution import ExecRequest, Stdout
from agentkernel.model.ids import Digest, SandboxId, new_sandbox_id
from agentkernel.model.kinds import Backend, Feature, Isolation
from agentkernel.model.readiness import Capabilities, Identity, Readiness
from agentkernel.model.spec import BootSpec, ImageFacts

BOOT_DEADLINE_S = 60.0
"""From creation to greeting; it takes a quarter of a second alone."""
PROBE_S = 45.0
REMOVE_S = 30.0
TRIAL_OVER_S = 300.0
"""After which no probe goes on: far more than it and the removal of its container may take."""
ASK_S = 10.0
WORDS_KEPT = 600
AGENT_ALONE = Digest("none")
"""The image of a container that holds nothing but the agent."""
TRIAL = BootSpec(Backend.DOCKER, "", image=AGENT_ALONE, memory_mib=64, disk_mib=4, pids=32)
NOBODY = Identity("sandbox-00000000", bytes(16))


@dataclass(frozen=True, slots=True)
class Engine:
    """One that answered."""

    api: EngineApi
    facts: EngineFacts
    images: EngineImages


class DockerDriver(Driver):
    """Containers by the Docker Engine API.

    Args:
        backend: by what name users ask for it.
        find: where the engine is; looked up at each first use. Raises Refused, Unsupported.
        files: folder for what an engine on this host is told by path: the seccomp profile, `/etc/hosts`.
        runtime: the OCI runtime to use; empty for the engine's default.
        allow_unlimited: go on where the engine cannot hold a container to its limits.
    """

    vmm = None
    capabilities = Capabilities(
        frozenset({Feature.FILES, Feature.STDIN, Feature.DISK_LIMIT, Feature.IMAGES, Feature.PAUSE, Feature.OOM_INSIDE})
    )

    def __init__(
        self,
        backend: Backend,
        artifacts: Artifacts,
        find: Callable[[], Endpoint],
        *,
        files: Path,
        runtime: str = "",
        allow_unlimited: bool = False,
    ) -> None:
        self.backend = backend
        self._artifacts = artifacts
        self._find = find
        self._files = files
        self._runtime = runtime
        self._allow_unlimited = allow_unlimited
        self._found: Engine | None = None

    async def probe(self) -> Readiness:
        """Ask the engine who it is and what it can hold, then make, greet and remove a container of the agent alone."""
        try:
            with anyio.fail_after(PROBE_S):
                engine = await self._engine(again=True)
                self._check(engine.facts)
                isolation, unheld_ = await self._trial(engine)
        except TimeoutError:
            return self._unusable(
                f"{self.backend} did not make a container within {PROBE_S:.0f} s", "is its host overloaded?"
            )
        except AgentkernelError as err:
            return self._unusable(err.message, err.hint)
        missing = list(dict.fromkeys([*engine.facts.limits.missing(), *unheld_]))
        return Readiness(
            usable=True,
            isolation=isolation,
            version=engine.facts.version,
            reason=f"{', '.join(missing)} not limited on this engine" if missing else "",
            remedy=LIMITS_HINT if missing else "",
        )

    @staticmethod
    def _unusable(reason: str, remedy: str) -> Readiness:
        return Readiness(usable=False, reason=reason, remedy=remedy)

    def _check(self, facts: EngineFacts) -> None:
        """Raises Unsupported for an engine that cannot do what we promise."""
        self._need(facts, facts.limits.missing())
        if self._runtime and self._runtime not in facts.runtimes:
            raise Unsupported(
                f"the engine has no runtime {self._runtime!r} (it has {', '.join(sorted(facts.runtimes))})",
                hint="configure it in the engine, or empty [docker] runtime",
            )

    def _need(self, facts: EngineFacts, missing: list[str]) -> None:
        if missing and not self._allow_unlimited:
            rootless = ", rootless" if facts.rootless else ""
            raise Unsupported(
                f"this engine does not limit {', '.join(missing)} (cgroup v{facts.cgroup_version}{rootless})",
                hint=f"{LIMITS_HINT}, or set [security] allow_unlimited = true",
            )

    async def _trial(self, engine: Engine) -> tuple[Isolation, list[str]]:
        """One container, from the agent's image alone: what holds it in, and which limits it is not held to."""
        await _remove_trials(engine)
        sandbox = new_sandbox_id()
        async with self._running(engine, TRIAL, sandbox, NOBODY, trial=True) as guest:
            await guest.ping()
            once = {"stream": "false", "one-shot": "true"}
            stats = await engine.api.call("GET", f"/containers/{name_of(sandbox)}/stats", query=once)
            loose = unheld(stats, (TRIAL.memory_mib + TRIAL.disk_mib) * MIB, TRIAL.pids + OWN_PIDS)
            self._need(engine.facts, loose)
            kernel = guest.facts.facts.get("kernel", "")
            if self._runtime != "runsc":
                await self._prove(engine, guest)
                return Isolation.CONTAINER, loose
            version = (await guest.read_file("/proc/version", limit=4096)).decode(errors="replace")
            if kernel == engine.facts.kernel or not version.startswith(f"Linux version {GVISOR_KERNEL} "):
                raise Unsupported(
                    f"the runtime {self._runtime!r} is not gVisor: programs in it see the kernel {kernel}",
                    hint="point the engine's runtime at gVisor's runsc",
                )
            return Isolation.KERNEL_PROXY, loose

    async def _prove(self, engine: Engine, guest: Guest) -> None:
        """Raises Unsupported where a container is held less tightly than we asked for."""
        said = b""
        async for event in await guest.exec(ExecRequest(tuple(word.encode() for word in QUESTION), cwd="/")):
            if isinstance(event, Stdout):
                said += event.data
        if weak := weaknesses(said.decode(errors="replace")):
            path = self._files / f"seccomp-{engine.facts.machine}.json"
            await anyio.to_thread.run_sync(_keep, path, json.dumps(profile(engine.facts.machine)))
            raise Unsupported(
                f"containers of this engine are confined too weakly: {'; '.join(weak)}",
                hint=f"use an engine on this host, or copy {path} to the engine's host and name it as seccomp_profile "
                "in its containers.conf",
            )

    async def _engine(self, *, again: bool = False) -> Engine:
        """The engine, asked once who it is."""
        if self._found is None or again:
            api = EngineApi(self._find(), str(self.backend))
            try:
                version = await api.call("GET", "/version", deadline_s=ASK_S)
                info = await api.call("GET", "/info", deadline_s=ASK_S)
            except EngineRefused as err:
                raise Unsupported(
                    f"what listens on {api.endpoint} is no usable engine: {err.message}",
                    hint="Docker 20.10 or Podman 4, or later, are needed",
                ) from err
            facts = facts_of(version, info, str(api.endpoint))
            images = EngineImages(api, self._artifacts, facts.machine, facts.architecture)
            self._found = Engine(api, facts, images)
        return self._found

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """As the contract says. The disk is in memory, and ends with the container."""
        if birth.disk is not None:
            raise Unsupported(f"{self.backend} has no disks that outlive their sandbox")
        engine = await self._engine()
        await birth.record(container=name_of(birth.id))
        async with self._running(engine, spec, birth.id, birth.identity, left=birth.record) as guest:
            yield guest

    async def image(self, name: str, tell: Tell) -> ImageFacts:
        """An image of the engine, or one that it can pull."""
        engine = await self._engine()
        return await engine.images.find(name, tell)

    async def clear(self, keep: Collection[Digest] | None) -> list[str]:
        """Images and volumes of ours in the engine, of whatever home and version."""
        engine = await self._engine()
        try:
            return await engine.images.clear(keep)
        except EngineRefused as err:
            raise as_ours(err, f"{self.backend}'s images") from err

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Remove the container of that name, and any with that label."""
        engine = await self._engine()
        await _remove(engine.api, str(facts.get("container") or name_of(sandbox)))
        filters = json.dumps({"label": [f"{LABEL}={sandbox}"]})
        for left in await engine.api.call("GET", "/containers/json", query={"all": "1", "filters": filters}) or []:
            await _remove(engine.api, str(left["Id"]))

    async def _root(self, engine: Engine, spec: BootSpec) -> tuple[Found, str]:
        """The image of that sandbox, and the volume with the agent."""
        agent, volume = await engine.images.agent()
        if spec.image == AGENT_ALONE:
            return agent, volume
        if not engine.images.volume_filled:
            async with self._running(engine, TRIAL, new_sandbox_id(), NOBODY, trial=True):
                pass
        if spec.image_name:
            return await engine.images.foreign(spec.image), volume
        return await engine.images.runtime(spec.runtime, spec.image), volume

    @asynccontextmanager
    async def _running(
        self,
        engine: Engine,
        spec: BootSpec,
        sandbox: SandboxId,
        identity: Identity,
        *,
        left: Callable[..., Awaitable[None]] | None = None,
        trial: bool = False,
    ) -> AsyncIterator[ContainerGuest]:
        """One container; `left` is told when it could not be removed."""
        image, volume = await self._root(engine, spec)
        container = Container(
            sandbox,
            identity.hostname,
            spec,
            image.id,
            volume,
            engine.facts.machine,
            dialect=engine.facts.dialect,
            limits=engine.facts.limits,
            volumes=image.volumes,
            files=await self._local_files(engine),
            runtime=self._runtime,
            trial=trial,
        )
        stream: AttachedStream | None = None
        try:
            with _engine_words(engine):
                # Not given up half-way: who does not hear the answer does not know whether there is a container.
                with anyio.CancelScope(shield=True):
                    await engine.api.call(
                        "POST", "/containers/create", query={"name": container.name}, body=creation(container)
                    )
                stream = AttachedStream(*await engine.api.attach(container.name))
                await engine.api.call("POST", f"/containers/{container.name}/start", deadline_s=BOOT_DEADLINE_S)
            async with self._greeted(engine, stream, container, identity) as guest:
                if spec.image == AGENT_ALONE:
                    engine.images.volume_filled = True
                yield guest
        finally:
            with anyio.CancelScope(shield=True):
                try:
                    await _remove(engine.api, container.name)
                except AgentkernelError as err:
                    # It ends with its input if it has begun; one that was made and not started stays.
                    if left is not None:
                        await left(left=err.message)
                finally:
                    if stream is not None:
                        await stream.aclose()

    @asynccontextmanager
    async def _greeted(
        self, engine: Engine, stream: AttachedStream, container: Container, identity: Identity
    ) -> AsyncIterator[ContainerGuest]:
        """A cancel scope cannot be left while the link's task group inside it stays open, so the deadline breaks the
        stream instead.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.call_later(BOOT_DEADLINE_S, stream.break_off)
        greeted = False
        try:
            async with ContainerGuest.attach(stream, identity, pids=container.spec.pids) as guest:
                deadline.cancel()
                greeted = True
                guest.live_in(engine.api, container.name)
                yield guest
        except Broken as err:
            if greeted:
                raise
            late = deadline.when() <= loop.time()
            reason = f"did not answer within {BOOT_DEADLINE_S:.0f} s" if late else f"did not come up: {err}"
            words = " ".join(stream.last_words.split())[-WORDS_KEPT:]
            raise Broken(
                f"the container {reason}" + (f"; its last words: {words}" if words else ""),
                hint="agentkernel doctor tells what works here",
            ) from err
        finally:
            deadline.cancel()

    async def _local_files(self, engine: Engine) -> LocalFiles | None:
        """What an engine on this host takes by path; None for one that takes none, or that cannot read our files."""
        facts = engine.facts
        if not facts.dialect.profile_by_path or not engine.api.endpoint.socket or facts.kernel != platform.release():
            return None
        found = LocalFiles(
            profile=str(self._files / f"seccomp-{facts.machine}.json"), hosts=str(self._files / "container-hosts")
        )
        await anyio.to_thread.run_sync(_keep, Path(found.profile), json.dumps(profile(facts.machine)))
        await anyio.to_thread.run_sync(_keep, Path(found.hosts), HOSTS)
        return found


HOSTS = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
LIMITS_HINT = "use an engine on cgroup v2, or one of root, and a runtime that heeds control groups"
GVISOR_KERNEL = "4.4.0"
"""The version of Linux that gVisor says it is."""


def _keep(path: Path, text: str) -> None:
    """Have that text in that file; whoever reads meanwhile reads the old one or the new one."""
    if path.is_file() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(f".{new_sandbox_id()}")
    fresh.write_text(text)
    fresh.replace(path)


@contextmanager
def _engine_words(engine: Engine) -> Iterator[None]:
    """What an engine says to a creation, in our words."""
    try:
        yield
    except EngineRefused as err:
        engine.images.forget()  # an image or a volume may have been removed behind our back: the next one looks again
        raise Broken(
            f"the engine made no container: {err.message}", hint="agentkernel doctor tells what works here"
        ) from err


async def _remove(api: EngineApi, container: str) -> None:
    """End and remove it, and wait until it is gone. One that is not there is fine."""
    try:
        await api.call("DELETE", f"/containers/{container}", query={"force": "1", "v": "1"}, deadline_s=REMOVE_S)
    except EngineRefused as err:
        if err.status == 409:  # it removes itself already
            await _gone(api, container)
        elif err.status != 404:
            raise as_ours(err, f"the container {container} could not be removed") from err


async def _gone(api: EngineApi, container: str) -> None:
    try:
        await api.call("POST", f"/containers/{container}/wait", query={"condition": "removed"}, deadline_s=REMOVE_S)
    except EngineRefused as err:
        if err.status != 404:
            raise as_ours(err, f"the container {container} could not be removed") from err


async def _remove_trials(engine: Engine) -> None:
    """Containers of probes that ended without their engine: nobody's, and in nobody's journal. Not those of a probe
    that may still go on.
    """
    filters = json.dumps({"label": [TRIAL_LABEL]})
    for each in await engine.api.call("GET", "/containers/json", query={"all": "1", "filters": filters}) or []:
        if engine.facts.time_s - float(each.get("Created") or 0) > TRIAL_OVER_S:
            await _remove(engine.api, str(each["Id"]))
