"""The contract of every driver. tests/conformance holds all of them to it."""

from __future__ import annotations

import abc
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from agentkernel.model.errors import Unsupported
from agentkernel.model.execution import ExecEvent, ExecRequest, FileEntry
from agentkernel.model.ids import Digest, SandboxId
from agentkernel.model.kinds import Backend, Vmm
from agentkernel.model.readiness import Capabilities, GuestFacts, Identity, Readiness
from agentkernel.model.spec import BootSpec, ImageFacts


class Process(abc.ABC):
    """One running program in a guest."""

    @abc.abstractmethod
    def __aiter__(self) -> AsyncIterator[ExecEvent]:
        """`Started`, then output, then `Exited`; or `NotStarted` alone. Reading grants the guest credit: stop reading
        and it stops writing.

        Raises:
            Broken: the sandbox died or broke the protocol.
        """

    @abc.abstractmethod
    async def send_stdin(self, data: bytes) -> None:
        """Pass input on; waits while the program does not read. Input after the program's end is dropped."""

    @abc.abstractmethod
    async def close_stdin(self) -> None:
        """End of input."""

    @abc.abstractmethod
    async def signal(self, number: int) -> None:
        """Send a signal to the process group."""

    @abc.abstractmethod
    async def kill(self) -> None:
        """SIGKILL to the whole tree, daemonised children included. The events still end with `Exited`."""


class Guest(abc.ABC):
    """A sandbox that runs: executes, moves files, ends. `LinkGuest` implements it once, over the guest link.

    Every method raises Broken when the sandbox is dead or does not speak the protocol, and Unsupported for a feature it
    refused. Where `Feature.USER_ROOT` is missing, a user or an owner is `sandbox`, `1000` or left out; any other is
    Unsupported.
    """

    facts: GuestFacts

    @abc.abstractmethod
    async def identify(self, identity: Identity) -> None:
        """Full identity (fresh entropy, clock, hostname, machine id), before any command of a caller."""

    @abc.abstractmethod
    async def refresh(self) -> None:
        """Clock and fresh entropy, at claim and after a resume. What is asked of the guest afterwards finds them."""

    @abc.abstractmethod
    async def exec(self, request: ExecRequest) -> Process:
        """Start a program. Returns once the request is sent; the first event tells how it went."""

    @abc.abstractmethod
    async def ping(self) -> None:
        """One round trip."""

    @abc.abstractmethod
    async def mount_disk(self, serial: str, file_system: str, binds: Mapping[str, str]) -> None:
        """Mount a block device once and bind directories of it: directory on the disk to target in the guest."""

    @abc.abstractmethod
    async def read_file(self, path: str, *, offset: int = 0, limit: int | None = None) -> bytes:
        """Content of a regular file. Raises OSError (errno, path) as the guest reports it; Refused when it holds more
        than `limit` bytes.
        """

    @abc.abstractmethod
    async def write_file(
        self, path: str, content: bytes, *, mode: int = 0o644, owner: str = "", make_parents: bool = False
    ) -> None:
        """Replace a file atomically. Raises OSError as the guest reports it."""

    @abc.abstractmethod
    async def put_archive(self, directory: str, chunks: AsyncIterator[bytes], *, owner: str = "") -> int:
        """Extract a tar stream below a directory; returns the number of members. Raises OSError as the guest reports
        it.
        """

    @abc.abstractmethod
    async def stat(self, path: str) -> FileEntry:
        """Facts of one path, not following a final symbolic link."""

    @abc.abstractmethod
    async def list_directory(self, path: str) -> list[FileEntry]:
        """Entries of a directory, without `.` and `..`."""

    @abc.abstractmethod
    async def make_directory(self, path: str, *, mode: int = 0o755, parents: bool = False, owner: str = "") -> None:
        """Make a directory; with `parents` it may be there already."""

    @abc.abstractmethod
    async def remove(self, path: str, *, recursive: bool = False) -> None:
        """Remove a file, or a directory with all below it."""

    @abc.abstractmethod
    async def rename(self, source: str, target: str) -> None:
        """Rename within one file system."""

    async def pause(self) -> None:
        """Stop its processors: nothing in it runs, and nothing is answered, until `unpause`. Once more is fine.
        Declared by `Feature.PAUSE`.
        """
        raise Unsupported("this sandbox cannot be paused")

    async def unpause(self) -> None:
        """Let its processors go on, where they stopped; its clock is behind until `refresh`. Once more is fine."""
        raise Unsupported("this sandbox cannot be paused")

    async def save(self, folder: Path) -> None:
        """Write all of it, memory, processes and disk, to an empty folder, for `Driver.restore`. It stands still
        meanwhile and then goes on, with its channels and the right time; cancelled or failed, too. Declared by
        `Feature.SNAPSHOT`.

        Raises:
            Broken: it ended, or the state could not be saved.
        """
        raise Unsupported("this sandbox cannot be saved")

    @abc.abstractmethod
    async def shut_down(self) -> None:
        """Ask politely: sync and power off. The driver's block still has to be left."""

    @abc.abstractmethod
    async def wait_broken(self) -> str:
        """Return, with the reason, when the sandbox has died; never before."""


class Birth(Protocol):
    """What the engine hands a driver for one new sandbox: its name, its place, and the journal's row."""

    id: SandboxId
    directory: Path
    """Private to this sandbox, made already, 0700; removed by the engine after the driver's block has ended."""
    identity: Identity
    """Who it is to be; sent with the greeting, before any command."""
    disk: Path | None
    """A disk that outlives the sandbox, made when it is not there, of one sandbox at a time (else Busy); None for a
    private one that ends with it.
    """

    async def record(self, **facts: str | int) -> None:
        """Commit facts (`pid`, `start_ticks`, `container`) that find a resource again after a crash. Before the
        resource is made where that is possible, else at once after.

        A last fact, `left`, says in words that something could not be removed: the row stays after the driver's block,
        and `Driver.reap` is asked again later.
        """


Tell = Callable[[str], Awaitable[None]]
"""Called with one line for a person, while something long goes on."""


class Artifacts(Protocol):
    """What a driver needs of `images`, without importing it."""

    async def root(self, image: Digest) -> Path:
        """Read-only root file system image of that digest."""

    async def pulled(self, name: str, tell: Tell) -> ImageFacts:
        """An image by name, found on this host or fetched from a registry, and unpacked for `root`. Raises as
        `Driver.image` does.
        """

    def archive(self, image: Digest) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """That root file system as a tar stream with its owners and modes, for an engine that imports it."""

    def agent(self, machine: str) -> Path:
        """The static guest agent for a processor architecture as `uname -m` calls it. Raises Unsupported."""

    async def template(self, inputs: Mapping[str, object], record: Callable[[Path], Awaitable[None]]) -> Path:
        """The folder of the template with these inputs; made by `record` in an empty folder when it is not there or
        does not look as it was made. One maker at a time, on this host.
        """

    async def discard_template(self, folder: Path) -> None:
        """Remove a template that turned out to be of no use; machines that map it go on."""

    async def tool(self, name: str) -> Tool:
        """A host program and the tree it runs in. Raises Unsupported with the remedy where it cannot be had."""

    async def kernel(self) -> Kernel:
        """The guest kernel and the initramfs that carries the agent."""

    async def component(self, language: str) -> Component:
        """A language's interpreter as a WebAssembly component."""

    async def blank_disk(self, mib: int) -> Path:
        """A sparse file holding an ext4 file system of that size with a sandbox's empty directories; copy it, never
        write to it.
        """


class Tool(Protocol):
    """A host program."""

    @property
    def path(self) -> str:
        """The program, as seen below `root`."""

    @property
    def root(self) -> Path:
        """`/` for a program of the system, else the private tree that holds it and its libraries."""

    @property
    def version(self) -> str:
        """As the program says it, `10.0.2`."""

    @property
    def digest(self) -> Digest:
        """Of the program and what it came with."""


class Kernel(Protocol):
    """A bootable pair."""

    @property
    def image(self) -> Path:
        """An uncompressed ELF that boots by PVH, or whatever else the VMM accepts."""

    @property
    def initramfs(self) -> Path:
        """Carries the guest agent as /init and the modules it loads."""

    @property
    def release(self) -> str:
        """As `uname -r` says it."""

    @property
    def digest(self) -> Digest:
        """Of both files."""


class Component(Protocol):
    """A WebAssembly component, not compiled yet."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def digest(self) -> Digest:
        """Of all that it is made from."""


Prepare = Callable[[Guest], Awaitable[None]]
"""What a template's guest does before it is frozen."""


class Driver(abc.ABC):
    """One backend. Construction does nothing; a missing method fails there."""

    backend: Backend
    vmm: Vmm | None
    capabilities: Capabilities
    programs: tuple[str, ...] | None = None
    """Patterns of the names of programs that its sandboxes run, `*.wasm`; None for whatever their image holds. Where
    they are named there is no root file system, and `ready` makes what they need.
    """
    runtimes: frozenset[str] | None = None
    """Recipes whose name means something to it; None for all."""

    @abc.abstractmethod
    async def probe(self) -> Readiness:
        """Usable, or why not and what to do. It tries (boots something small under a deadline), it does not look for
        files.
        """

    @abc.abstractmethod
    def boot(self, spec: BootSpec, birth: Birth) -> AbstractAsyncContextManager[Guest]:
        """A running, greeted guest; leaving the block leaves nothing behind, whatever happened inside it.

        Raises:
            Broken: it did not come up; the message carries the guest's or the VMM's last words.
            Unsupported: not on this host, with the remedy.
        """

    async def image(self, name: str, tell: Tell) -> ImageFacts:
        """Find an image that is not a recipe of ours, or fetch it. Declared by `Feature.IMAGES`.

        Raises:
            NotFound: nobody has it.
            Refused: it cannot run here (another architecture), or the name is none.
            Busy: whoever has it does not answer.
        """
        raise Unsupported(f"{self.backend} runs runtimes only, not images by name")

    async def ready(self, runtime: str, tell: Tell) -> Digest:
        """Have there what sandboxes of that runtime are made from, and name it. Asked where `programs` are named.

        Raises:
            Busy: it cannot be fetched now. Broken: it could not be made.
        """
        raise Unsupported(f"{self.backend} makes its sandboxes from images")

    async def template(self, spec: BootSpec, birth: Birth, prepare: Prepare) -> Path:
        """The template of that specification, made when there is none that fits this host, QEMU, kernel, image and
        agent. Declared by `Feature.TEMPLATE`.

        Args:
            birth: of the machine that it is made from, which has ended when this returns.
            prepare: runs in the guest before it is frozen.

        Raises:
            Broken: it could not be made.
        """
        raise Unsupported(f"{self.backend} has no templates")

    def clone(self, template: Path, spec: BootSpec, birth: Birth) -> AbstractAsyncContextManager[Guest]:
        """As `boot`, by copying a template: same promises, same errors. Broken may mean that the template is of no
        use: discard it.
        """
        raise Unsupported(f"{self.backend} has no templates")

    def restore(self, folder: Path, spec: BootSpec, birth: Birth) -> AbstractAsyncContextManager[Guest]:
        """As `boot`, by loading what `Guest.save` wrote of a sandbox of that specification: files and processes go on
        in a sandbox that is somebody else. The folder is only read.

        Raises:
            Refused: this host, or its QEMU, is not the one that it was saved with.
        """
        raise Unsupported(f"{self.backend} has no snapshots")

    async def discard(self, template: Path) -> None:
        """Remove a template; its clones go on."""
        raise Unsupported(f"{self.backend} has no templates")

    async def clear(self, keep: Collection[Digest] | None) -> list[str]:
        """Remove what this driver keeps outside of our folders for sandboxes to come; what is in use stays.

        Args:
            keep: images of runtimes that are still wanted, and what they are run with; None for nothing.

        Returns:
            What is gone, a few words each.

        Raises:
            Unsupported, Denied, Busy, Broken: whoever keeps it does not answer.
        """
        return []

    @abc.abstractmethod
    async def reap(self, sandbox: SandboxId, facts: Mapping[str, str | int]) -> None:
        """End whatever a crash left of one sandbox: search by id, then by the recorded facts. Nothing found is fine."""
