"""A snapshot's files: what the sentry writes of itself, and what has to be the same where they are loaded.

The sentry is asked on the socket that runsc leaves for it in the prison's /tmp, and gets the files as descriptors, so
that it sees no folder of the host. The messages are one JSON object each; source: gVisor, `pkg/urpc` and
`pkg/sentry/control/state.go`, as runsc 0.0~20240729 sends them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agentkernel.drivers.confine import Bind
from agentkernel.drivers.contract import Tool
from agentkernel.drivers.gvisor.bundle import CONTAINER, SAVED, STATE
from agentkernel.drivers.vmm.hardware import processor
from agentkernel.model.errors import Broken, NotFound, Refused
from agentkernel.model.spec import BootSpec

FORMAT = 1
"""Of the files and of the bundle: raised whenever what a saved sandbox expects of it changes."""
FILES = ("checkpoint.img", "pages_meta.img", "pages.img")
"""As `runsc restore` looks for them, in the order in which the sentry takes them."""
MADE_FOR = "made-for.json"
ANSWER_BYTES = 64 * 1024
SAVE_DEADLINE_S = 300.0
"""How long writing all memory may take."""
ORDER = {
    "method": "containerManager.Checkpoint",
    "arg": {
        "key": None,
        "metadata": {"compression": "none"},
        "MemoryFileSaveOpts": {"ExcludeCommittedZeroPages": False},
        "have_pages_file": True,
        "Resume": True,
    },
}


def inputs(tool: Tool, spec: BootSpec, agent: Path) -> dict[str, object]:
    """All that a restored sandbox must have in common with the saved one, whose agent runs from its file."""
    return {
        "format": FORMAT,
        "runsc": [tool.digest, tool.version],
        "agent": hashlib.sha256(agent.read_bytes()).hexdigest(),
        "image": spec.image,
        "sizes": [spec.memory_mib, spec.disk_mib, spec.vcpus],
        "kernel": platform.release(),
        "processor": processor(),
    }


def save(pid: int, folder: Path, made_for: dict[str, object]) -> None:
    """Write a sandbox's files; it stands still meanwhile and then goes on. Blocks.

    Args:
        pid: of the confined runsc.

    Raises:
        Broken: the sentry could not, or has ended.
        OSError: a file could not be made.
    """
    with ExitStack() as files:
        fds = []
        for name in FILES:
            fds.append(os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            files.callback(os.close, fds[-1])
        try:
            with _connected(pid) as peer:
                socket.send_fds(peer, [json.dumps(ORDER).encode()], fds)
                answer = _answer(peer)
        except TimeoutError as err:
            raise Broken(f"the sandbox was not saved within {SAVE_DEADLINE_S:.0f} s") from err
        except OSError as err:
            raise Broken(f"the sandbox cannot be asked to save itself: {err}") from err
        if answer.get("success") is not True:
            raise Broken(
                f"the sandbox could not be saved: {str(answer.get('err'))[:300]}",
                hint="df -h shows whether the disk is full",
            )
        for fd in fds:
            os.fchmod(fd, 0o444)  # for whoever loads it, which is another user; the folder keeps everybody else out
    (folder / MADE_FOR).write_text(json.dumps(made_for, sort_keys=True))


def check_fits(folder: Path, here: dict[str, object]) -> None:
    """Raise Refused where a snapshot was saved by something else, and say what is different; NotFound without one."""
    try:
        made_for = json.loads((folder / MADE_FOR).read_text())
    except FileNotFoundError as err:
        raise NotFound("there is no such snapshot, or it was removed") from err
    same = json.loads(json.dumps(here))
    if different := sorted(name for name in {*made_for, *same} if made_for.get(name) != same.get(name)):
        raise Refused(
            f"the snapshot does not fit any more: {', '.join(different)} changed since it was taken",
            hint="take a new one; a saved sandbox is never loaded into another one on hope",
        )


def binds(folder: Path) -> Iterator[Bind]:
    """The files, where `runsc restore` is told to look."""
    for name in FILES:
        yield Bind(folder / name, f"{SAVED}/{name}")


@contextmanager
def _connected(pid: int) -> Iterator[socket.socket]:
    """A conversation with the sentry. No link on the way is followed: who took over runsc could have made one."""
    with ExitStack() as files:
        at = os.open(f"/proc/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        files.callback(os.close, at)
        for name in (*STATE.strip("/").split("/"), f"runsc-{CONTAINER}.sock"):
            at = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            files.callback(os.close, at)
        if not stat.S_ISSOCK(os.fstat(at).st_mode):
            raise ConnectionError("what is at the place of its socket is none")
        peer = files.enter_context(socket.socket(socket.AF_UNIX))
        peer.settimeout(SAVE_DEADLINE_S)
        peer.connect(f"/proc/self/fd/{at}")
        yield peer


def _answer(peer: socket.socket) -> dict[str, object]:
    """One JSON object, from somebody who is not trusted to send one."""
    received = b""
    while len(received) < ANSWER_BYTES:
        piece = peer.recv(ANSWER_BYTES)
        received += piece
        try:
            answer = json.loads(received)
        except ValueError:
            if piece:
                continue
            break
        if isinstance(answer, dict):
            return answer
        break
    raise Broken("the sandbox gave no answer when it was told to save itself")
