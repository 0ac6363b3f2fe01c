"""`agentkernel setup --firecracker PATH`: take a release's Firecracker and jailer into our own data folder."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from agentkernel.admin.console import Console
from agentkernel.drivers.firecracker.binary import JAILER, NAME, SUMS, Binaries, examine, file_digest, own_folder
from agentkernel.images.store import Store
from agentkernel.model.errors import Refused


async def adopt_firecracker(store: Store, program: Path, console: Console, *, sha256: str = "") -> Binaries:
    """Check and copy the pair; what was there before is replaced as a whole.

    Args:
        program: Firecracker's, with its jailer beside it.
        sha256: what its digest has to be, as its release says; empty for none. A `SHA256SUMS` beside it is compared
            with in any case.

    Raises:
        Refused: there is no such file, or its digest is another.
        Unsupported: its version is not one that we drive; see `examine`.
    """
    program = program.absolute()
    if not program.is_file():
        raise Refused(f"{program} is no file", hint="name the program of an unpacked release")
    digest = file_digest(program)
    if sha256 and digest != sha256.lower():
        raise Refused(
            f"the SHA-256 of {program} is {digest}, not {sha256.lower()}", hint="take it from its release again"
        )
    console.step("firecracker", "check version and digest")
    found = await examine(program)
    folder = own_folder(store.data)
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=".firecracker-", dir=folder.parent))
    try:
        for source, name in ((found.firecracker, NAME), (found.jailer, JAILER)):
            shutil.copyfile(source, made / name)
            (made / name).chmod(0o755)
        sums = [f"{file_digest(made / name)}  {name}\n" for name in (NAME, JAILER)]
        (made / SUMS).write_text("".join(sums))
        if not sums[0].startswith(digest):
            raise Refused(f"{program} changed while it was copied", hint="try again")
        if folder.exists():
            folder.rename(made / "before")
        made.rename(folder)
        shutil.rmtree(folder / "before", ignore_errors=True)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise
    console.done("firecracker", f"{found.version}, SHA-256 {digest}")
    return await examine(folder / NAME)
