"""`--dir`: a folder packed as a tar stream, without what its ignore files name, and put into a leased sandbox."""

import base64
import io
import os
import tarfile
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pathspec

from agentkernel.cli.hot import Failure

if TYPE_CHECKING:
    from agentkernel.cli.session import Session

CHUNK_BYTES = 524_288
MAX_PROJECT_BYTES = 512 << 20
ALWAYS_IGNORED = (".git/", ".hg/", ".svn/", ".venv/", "node_modules/", "__pycache__/")
IGNORE_FILES = (".gitignore", ".agentkernelignore")


def acquired(session: "Session", directory: str, message: dict[str, object]) -> str:
    """Lease a sandbox like the one `message` asks for; returns the lease."""
    if not os.path.isdir(directory):
        raise Failure(f"--dir {directory}: not a folder")
    wanted = ("runtime", "image", "backend", "vmm", "minimum_isolation")
    return str(session.ask({"cmd": "acquire", **{name: message[name] for name in wanted if name in message}})["id"])


def put_project(session: "Session", directory: str, lease: str) -> None:
    """Copy the folder into the /workspace of a lease's sandbox."""
    chunks = packed(directory)
    chunk = next(chunks, b"")
    while True:
        following = next(chunks, None)
        session.ask(
            {
                "cmd": "archive_put",
                "id": lease,
                "path": "/workspace",
                "content_base64": base64.b64encode(chunk).decode(),
                "more": following is not None,
            }
        )
        if following is None:
            return
        chunk = following


def packed(directory: str) -> Iterator[bytes]:
    """The folder as a pax tar stream, in chunks of at most 512 KiB; modes are kept, owners are not."""
    buffer = io.BytesIO()
    total = 0
    with tarfile.open(fileobj=buffer, mode="w|", format=tarfile.PAX_FORMAT, bufsize=65536) as archive:
        for path, name in wanted_files(directory):
            try:
                member = archive.gettarinfo(path, arcname=name)
            except OSError:
                continue  # gone since it was listed
            if member is not None and member.islnk():  # a second name of a file: packed as a file of its own
                member.type, member.linkname, member.size = tarfile.REGTYPE, "", os.lstat(path).st_size
            if member is None or not (member.isreg() or member.isdir() or member.issym()):
                continue
            total += member.size
            if total > MAX_PROJECT_BYTES:
                raise Failure(
                    f"--dir {directory}: more than {MAX_PROJECT_BYTES >> 20} MiB",
                    "name what to leave out in .agentkernelignore",
                )
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            try:
                if member.isreg():
                    with open(path, "rb") as content:
                        archive.addfile(member, content)
                else:
                    archive.addfile(member)
            except OSError as err:
                raise Failure(
                    f"--dir {directory}: {name} cannot be read: {err.strerror or err}",
                    "name it in .agentkernelignore, or try again if it was being written",
                ) from None
            yield from drained(buffer, CHUNK_BYTES)
    yield from drained(buffer, 1)


def drained(buffer: io.BytesIO, at_least: int) -> Iterator[bytes]:
    """Take what the buffer holds once it holds enough."""
    content = buffer.getvalue()
    if len(content) < at_least:
        return
    buffer.seek(0)
    buffer.truncate()
    for start in range(0, len(content), CHUNK_BYTES):
        yield content[start : start + CHUNK_BYTES]


def wanted_files(directory: str) -> Iterator[tuple[str, str]]:
    """Paths and their names in the archive, parents first, in a stable order."""
    ignored = ignore_rules(directory)
    for folder, folders, files in os.walk(directory):
        relative = os.path.relpath(folder, directory)
        prefix = "" if relative == "." else relative + "/"
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = sorted(set(folders) - set(links))
        folders[:] = [name for name in folders if not ignored.match_file(prefix + name + "/")]
        for name in folders:
            yield os.path.join(folder, name), prefix + name
        for name in sorted(files + links):
            if not ignored.match_file(prefix + name):
                yield os.path.join(folder, name), prefix + name


def ignore_rules(directory: str) -> pathspec.GitIgnoreSpec:
    """Ours, then those of the folder's own ignore files, which may take ours back with `!`."""
    lines = list(ALWAYS_IGNORED)
    for name in IGNORE_FILES:
        path = os.path.join(directory, name)
        if os.path.isfile(path):
            with open(path, encoding="utf-8", errors="surrogateescape") as rules:
                lines += rules.read().splitlines()
    return pathspec.GitIgnoreSpec.from_lines(lines)
