"""`agentkernel setup`: everything that a first command needs, found or made, in an order that fails early."""

from __future__ import annotations

from collections.abc import Sequence

from agentkernel.admin.console import Console, human_bytes
from agentkernel.admin.doctor import examine
from agentkernel.images.manifest import disk_bytes
from agentkernel.images.store import Store
from agentkernel.images.tools import HostTool
from agentkernel.model.errors import Unsupported

DEFAULT_RUNTIMES = ("base", "python")
"""What setup builds unless told otherwise; the others are built on first use."""


async def setup(
    store: Store,
    console: Console,
    runtimes: Sequence[str] = DEFAULT_RUNTIMES,
    *,
    verify: bool = False,
    fresh: bool = False,
) -> None:
    """Make what is missing; what is there is only looked at, so that running it again after any failure goes on where
    it stopped.

    Args:
        verify: read everything that is there and compare it with its digest; what is damaged is made anew.
        fresh: make all of it anew, from new package lists, to get updates.

    Raises:
        AgentkernelError: in words, with a hint; what was finished before stays.
    """
    for runtime in runtimes:
        store.resolve(runtime)  # an unknown name is said before anything is downloaded
        if fresh:
            store.refresh(runtime)
    if fresh:
        store.refresh_tools()
    if verify:
        await check(store, console)
    qemu = await store.tool("qemu", console.step)
    console.done("tools", f"QEMU {qemu.version}, {_whose(qemu)}")
    try:
        runsc = await store.tool("runsc", console.step)
        console.done("gvisor", f"runsc {runsc.version}, {_whose(runsc)}")
    except Unsupported as err:  # microVMs work without it
        console.done("gvisor", f"not here: {err.message}")
    kernel = await store.kernel(console.step)
    console.done("kernel", f"Linux {kernel.release}")
    for runtime in runtimes:
        digest = await store.ensure(runtime, console.step)
        path = await store.root(digest)
        console.done(f"image {runtime}", human_bytes(disk_bytes(path)))
    console.step("trial", "boot a small machine")
    for name, verdict in (await examine(store)).items():
        console.done("trial", f"{name}: {verdict.isolation if verdict.usable else verdict.reason}")


def _whose(tool: HostTool) -> str:
    return "the system's" if str(tool.root) == "/" else "private"


async def check(store: Store, console: Console) -> bool:
    """Verify everything; says what was damaged. True when nothing was."""
    faults = await store.verify(console.step)
    for fault in faults:
        names = ", ".join(fault.files[:3])
        console.say(f"  damaged and removed: {fault.kind} {fault.digest[:12]} ({names}); made anew when it is needed")
    console.done("verify", f"{len(faults)} damaged" if faults else "all good")
    return not faults
