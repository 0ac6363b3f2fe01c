"""From layers to a root file system on the shelf: the host's side of `unpack`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import anyio

from agentkernel.images import namespace, rootfs
from agentkernel.images.oci.documents import ImageConfig
from agentkernel.images.oci.layers import Limits
from agentkernel.images.oci.local import LayerAt
from agentkernel.images.shelf import Recorded
from agentkernel.images.trouble import no_space
from agentkernel.model.errors import AgentkernelError, Refused

FORMAT = "oci-1"
"""Changes when the same layers become another tree, so that older ones are not taken for it."""
_PROGRAM = "agentkernel.images.oci.unpack"


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image to be made.

    Attributes:
        name: for messages.
        digest: its key on the shelf.
        mkfs: the command of mkfs.erofs.
    """

    name: str
    digest: str
    config: ImageConfig
    layers: Sequence[LayerAt]
    mkfs: Sequence[str]
    limits: Limits = field(default_factory=Limits)


async def unpack(wanted: Wanted, folder: Path, tell: Callable[[str], None]) -> Recorded:
    """Make the image in an empty folder of the shelf.

    Raises:
        Refused: a layer is damaged, hostile, or more than is taken.
        Busy: no room.
        Unsupported: this user cannot make namespaces.
    """
    tree, job = folder / "tree", folder / "job.json"
    tree.mkdir()
    tree.chmod(0o755)  # whatever our umask: it becomes the / of the sandbox, unless the image says otherwise
    lying = [
        {
            "path": str(layer.place.path),
            "offset": layer.place.offset,
            "size": layer.place.size,
            "digest": layer.digest,
            "diff_id": diff_id,
        }
        for layer, diff_id in zip(wanted.layers, wanted.config.diff_ids, strict=True)
    ]
    said = {"cwd": wanted.config.cwd, "user": wanted.config.user, "limits": asdict(wanted.limits)}
    job.write_text(json.dumps({"tree": str(tree), "layers": lying, **said}))
    try:
        done = await _run(job, wanted.name, folder, tell)
        (folder / rootfs.MODES).write_text(
            "".join(f"{line}\n" for line in done["modes"]), errors="surrogateescape", encoding="utf-8"
        )
        tell("pack")
        await rootfs.pack(tree, folder / rootfs.IMAGE, wanted.mkfs, wanted.digest)
    finally:
        job.unlink(missing_ok=True)
        with anyio.CancelScope(shield=True):
            await namespace.remove(tree)
    return Recorded(files=[rootfs.IMAGE, rootfs.MODES], facts={"name": wanted.name, "user": done["user"]})


async def _run(job: Path, name: str, folder: Path, tell: Callable[[str], None]) -> Mapping[str, Any]:
    """What the program said at its end."""
    last: Mapping[str, Any] = {}

    def on_line(line: str) -> None:
        nonlocal last
        said = _words(line)
        if "layer" in said:
            tell(f"unpack layer {said['layer']} of {said['of']}")
        elif said:
            last = said

    await namespace.inside("run", sys.executable, "-P", "-m", _PROGRAM, job, on_line=on_line)
    if "refused" in last:
        raise Refused(
            f"{name} is not taken: {last['refused']}", hint="it is damaged, hostile, or made for another tool"
        )
    if "full" in last:
        raise no_space(f"unpacking {last['full']} of {name}", folder, None)
    if "done" not in last:
        raise AgentkernelError(f"{name} was not unpacked", hint="this is a fault of agentkernel; please report it")
    done: Mapping[str, Any] = last["done"]
    return done


def _words(line: str) -> Mapping[str, Any]:
    """What the program said in one line; empty for one that is not its own."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
