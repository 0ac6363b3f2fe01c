"""One container: run, linked by `exec`, stopped, deleted."""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import anyio

from agentkernel.drivers.apple import answers, commands
from agentkernel.drivers.apple.program import Attached, Program
from agentkernel.drivers.contract import Artifacts, Birth, Driver, Guest, Tell
from agentkernel.drivers.link import LinkGuest
from agentkernel.model.errors import AgentkernelError, Broken, NotFound, Refused, Unsupported
from agentkernel.model.ids import SandboxId
from agentkernel.model.kinds import Backend, Feature, Isolation
from agentkernel.model.readiness import Capabilities, Readiness
from agentkernel.model.spec import BootSpec, ImageFacts

PROBE_S = 0.9
"""For each of two commands: a probe answers within two seconds."""
RUN_S = 60.0
"""Making a virtual machine and unpacking its image."""
GREETING_S = 30.0
PULL_S = 900.0
END_S = 15.0
OLDEST_MACOS = 26
OLDEST_VERSION = (1, 0)
NAME = r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,254}"


@dataclass(frozen=True, slots=True)
class Host:
    """What kind of machine this is.

    Attributes:
        system, machine: as `uname -s` and `uname -m` say.
        release: of macOS, `26.1`; empty elsewhere.
        path: PATH.
        guest_machine: what processor its guests have, as Linux calls it.
    """

    system: str
    machine: str
    release: str
    path: str
    guest_machine: str = "aarch64"


def this_host() -> Host:
    """The one that we run on."""
    return Host(platform.system(), platform.machine(), platform.mac_ver()[0], os.environ.get("PATH", ""))


class AppleDriver(Driver):
    """Containers of Apple's `container`, each a virtual machine of its own.

    Args:
        artifacts: where the agent comes from.
        host: what kind of machine this is.
    """

    backend = Backend.APPLE
    vmm = None
    capabilities = Capabilities(frozenset({Feature.FILES, Feature.STDIN, Feature.IMAGES}))
    runtimes = frozenset[str]()

    def __init__(self, artifacts: Artifacts, host: Callable[[], Host] = this_host) -> None:
        self._artifacts = artifacts
        self._host = host

    async def probe(self) -> Readiness:
        """Whether this is such a host, the program is there and its services answer; nothing is started."""
        try:
            _require_macos(self._host())
            program = Program(self._host().path)
            version = answers.version(await program.run(commands.VERSION, deadline_s=PROBE_S))
            if not version or tuple(int(part) for part in version.split(".")[:2]) < OLDEST_VERSION:
                raise Unsupported(
                    f"Apple's container {version or 'of unknown version'} is too old, 1.0 or later is needed",
                    hint="install a newer release of github.com/apple/container",
                )
            await _services_answer(program)
        except AgentkernelError as err:
            return Readiness(usable=False, reason=err.message, remedy=err.hint)
        return Readiness(usable=True, isolation=Isolation.VM, version=version)

    async def image(self, name: str, tell: Tell) -> ImageFacts:
        """Find it here, or have it pulled."""
        program = self._program()
        try:
            said = await program.run(commands.inspect_image(_sound(name)))
        except NotFound:
            await tell(f"pulling {name}")
            await program.run(commands.pull(name), deadline_s=PULL_S)
            said = await program.run(commands.inspect_image(name))
        return answers.image(said)

    @asynccontextmanager
    async def boot(self, spec: BootSpec, birth: Birth) -> AsyncIterator[Guest]:
        """As the contract says. Everything that is written lives in the machine's memory."""
        if not spec.image_name:
            raise Unsupported(
                f"apple runs images by name, not the runtime {spec.runtime}",
                hint="name one: --image debian:stable-slim",
            )
        _sound(spec.image_name)
        program, name = self._program(), commands.name_of(birth.id)
        folder = self._agent_folder(birth.directory)
        await birth.record(container=name)
        try:
            await program.run(commands.run(birth.id, spec, folder), deadline_s=RUN_S)
            async with AsyncExitStack() as stack:
                attached = await stack.enter_async_context(program.attached(commands.link(birth.id)))
                yield await _greeted(program, attached, spec, birth, stack)
        finally:
            with anyio.CancelScope(shield=True):
                shutil.rmtree(folder, ignore_errors=True)
                await _removed(program, name)

    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """Delete the container of that sandbox, by its label or its name."""
        try:
            program = self._program()
            found = answers.containers(await program.run(commands.LIST))
        except Unsupported:
            return  # no macOS, no program, no services: nothing runs
        names = {commands.name_of(sandbox), str(facts.get("container", ""))}
        for container in found:
            if container.labels.get(commands.LABEL) == sandbox or container.name in names:
                await program.run(commands.delete(container.name))

    def _program(self) -> Program:
        _require_macos(self._host())
        program = Program(self._host().path)
        program.find()
        return program

    def _agent_folder(self, directory: Path) -> Path:
        """Only folders can be mounted, so the agent gets one of its own."""
        folder = directory / "agent"
        folder.mkdir(mode=0o755)
        shutil.copyfile(self._artifacts.agent(self._host().guest_machine), folder / "agent")
        (folder / "agent").chmod(0o755)
        return folder


def _require_macos(host: Host) -> None:
    """Raises Unsupported, at once, where Apple's container cannot be."""
    if host.system != "Darwin":
        raise Unsupported(
            f"Apple's container runs on macOS only, not on {host.system}", hint="use the backends for this system"
        )
    if host.machine != "arm64":
        raise Unsupported("Apple's container needs a Mac with Apple silicon", hint="use docker")
    if int(host.release.partition(".")[0] or 0) < OLDEST_MACOS:
        raise Unsupported(
            f"macOS {OLDEST_MACOS} or later is needed, this is {host.release or 'of unknown version'}",
            hint="update macOS, or use docker",
        )


async def _greeted(program: Program, attached: Attached, spec: BootSpec, birth: Birth, stack: AsyncExitStack) -> Guest:
    """A guest, or why there is none. The deadline ends the command, for a cancel scope cannot be left while the
    link's task group inside it stays open.
    """
    deadline = asyncio.get_running_loop().call_later(GREETING_S, attached.kill)
    try:
        return await stack.enter_async_context(LinkGuest.attach(attached.stream, birth.identity, pids=spec.pids))
    except Broken as err:
        name = commands.name_of(birth.id)
        state = await _state_of(program, name)
        words = await attached.last_words()
        raise Broken(
            f"the agent in the container does not answer ({err}); the container is {state}"
            + (f"; its last words: {words}" if words else ""),
            hint=f"container logs {name} tells more; is the image one for linux/arm64?",
        ) from err
    finally:
        deadline.cancel()


async def _services_answer(program: Program) -> None:
    try:
        await program.run(commands.STATUS, deadline_s=PROBE_S)
    except AgentkernelError as err:
        raise Unsupported(f"the services of Apple's container do not run: {err.message}", hint=answers.START) from err


def _sound(name: str) -> str:
    """A name that no option can be mistaken for. Raises Refused."""
    if not re.fullmatch(NAME, name):
        raise Refused(f"{name[:64]!r} is no name of an image", hint="such as debian:stable-slim")
    return name


async def _state_of(program: Program, name: str) -> str:
    try:
        found = answers.containers(await program.run(commands.inspect(name)))
    except AgentkernelError as err:
        return f"not to be inspected ({err.message})"
    return found[0].state if found else "gone"


async def _removed(program: Program, name: str) -> None:
    """Politely, then certainly; what was never there is gone as well.

    Raises:
        Broken: it is there even now. The journal still knows it, and the next daemon tries again.
    """
    with suppress(AgentkernelError):
        await program.run(commands.stop(name), deadline_s=END_S)
    try:
        await program.run(commands.delete(name), deadline_s=END_S)
    except AgentkernelError as err:
        if await _is_there(program, name):
            raise Broken(
                f"the container {name} cannot be deleted: {err.message}", hint=f"container delete --force {name}"
            ) from err


async def _is_there(program: Program, name: str) -> bool:
    try:
        found = answers.containers(await program.run(commands.LIST, deadline_s=END_S))
    except Unsupported:
        return False  # without its services nothing of it runs
    return any(one.name == name for one in found)
