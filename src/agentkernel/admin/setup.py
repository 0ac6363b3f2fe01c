"""`agentkernel setup`: everything that a first command needs, found or made, in an order that fails early."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentkernel.admin.console import Console, human_bytes
from agentkernel.admin.doctor import WIDTH, examine, table
from agentkernel.images.components import LANGUAGES
from agentkernel.images.manifest import disk_bytes
from agentkernel.images.store import Store
from agentkernel.model.kinds import Backend

DEFAULT_RUNTIMES = ("base", "python")
"""What setup builds unless told otherwise; the others are built on first use."""
TOOLS: Mapping[Backend, Sequence[tuple[str, str]]] = {
    Backend.MICROVM: [("qemu", "QEMU")],
    Backend.GVISOR: [("runsc", "runsc")],
}
"""Programs that setup finds or fetches for a backend, and what a person calls them. Other backends need what the user
installs, or nothing.
"""


async def setup(
    store: Store,
    console: Console,
    runtimes: Sequence[str] = DEFAULT_RUNTIMES,
    *,
    backends: Sequence[Backend] = (Backend.MICROVM,),
    verify: bool = False,
    fresh: bool = False,
) -> None:
    """Make what is missing; what is there is only looked at, so that running it again after any failure goes on where
    it stopped.

    Args:
        backends: what is fetched is what these need.
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
    for name, spoken in [tool for backend in backends for tool in TOOLS.get(backend, ())]:
        tool = await store.tool(name, console.step)
        where = "the system's" if str(tool.root) == "/" else "private"
        console.done("tools", f"{spoken} {tool.version}, {where}")
    if Backend.MICROVM in backends:
        kernel = await store.kernel(console.step)
        console.done("kernel", f"Linux {kernel.release}")
    if Backend.WASM in backends:
        for language in LANGUAGES:
            component = await store.component(language, console.step)
            console.done(f"wasm {language}", human_bytes(disk_bytes(component.path)))
    for runtime in runtimes:
        digest = await store.ensure(runtime, console.step)
        path = await store.root(digest)
        console.done(f"image {runtime}", human_bytes(disk_bytes(path)))
    console.step("trial", "every driver runs something small")
    found = await examine(store)
    console.done("trial", f"{sum(verdict.usable for verdict in found.values())} of {len(found)} drivers work here")
    for line in table(found, width=WIDTH - 2):
        console.say(f"  {line}")


async def check(store: Store, console: Console) -> bool:
    """Verify everything; says what was damaged. True when nothing was."""
    faults = await store.verify(console.step)
    for fault in faults:
        names = ", ".join(fault.files[:3])
        console.say(f"  damaged and removed: {fault.kind} {fault.digest[:12]} ({names}); made anew when it is needed")
    console.done("verify", f"{len(faults)} damaged" if faults else "all good")
    return not faults
