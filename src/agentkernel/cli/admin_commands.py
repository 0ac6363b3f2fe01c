"""`setup`, `doctor`, `images`, `uninstall`: thin commands over `admin`. Also runs alone, as `python -m
agentkernel.cli.admin_commands`."""

from __future__ import annotations

import json
import sys
from collections.abc import Awaitable, Callable
from functools import partial, wraps
from pathlib import Path
from typing import ParamSpec

import anyio
import click

from agentkernel.admin import doctor as doctoring
from agentkernel.admin import setup as setting_up
from agentkernel.admin import uninstall as uninstalling
from agentkernel.admin.console import Console, human_bytes
from agentkernel.admin.firecracker import adopt_firecracker
from agentkernel.cli.hot import runtime_of
from agentkernel.images.oci.reference import absolute
from agentkernel.images.store import Store
from agentkernel.model.errors import DOORS, AgentkernelError, code_of
from agentkernel.model.kinds import Backend

P = ParamSpec("P")


def _command(work: Callable[P, Awaitable[int | None]]) -> Callable[P, None]:
    """Run it; our errors become one line, the hint another, and the exit status of the table."""

    @wraps(work)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            status = anyio.run(partial(work, *args, **kwargs))
        except AgentkernelError as error:
            click.echo(f"agentkernel: {error.message}", err=True)
            if error.hint:
                click.echo(f"  {error.hint}", err=True)
            sys.exit(DOORS[code_of(error)].cli_exit)
        except KeyboardInterrupt:
            click.echo("agentkernel: interrupted; running the same again goes on from here", err=True)
            sys.exit(130)
        sys.exit(status or 0)

    return run


@click.group()
def admin() -> None:
    """Set agentkernel up, look after its images, remove it."""


@admin.command()
@click.argument("runtimes", nargs=-1)
@click.option("--verify", is_flag=True, help="Read everything that is there and compare it with its digest.")
@click.option("--fresh", is_flag=True, help="Make all of it anew, to get the packages' updates.")
@click.option(
    "-b",
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice([backend.value for backend in Backend]),
    help="Fetch what this backend needs; may be repeated. Default: microvm.",
)
@click.option("--for-command", metavar="WORD", help="The runtime that `run` would choose for that command.")
@click.option(
    "--firecracker",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Only copy that Firecracker, and the jailer beside it, to where it is found; Linux with KVM.",
)
@click.option("--sha256", metavar="DIGEST", default="", help="With --firecracker: what its SHA-256 has to be.")
@_command
async def setup(  # noqa: PLR0917  (click gives them by name)
    runtimes: tuple[str, ...],
    verify: bool,
    fresh: bool,
    backends: tuple[str, ...],
    for_command: str | None,
    firecracker: Path | None,
    sha256: str,
) -> None:
    """Find or make all that a first command needs. RUNTIMES: images to build, base and python unless given."""
    if firecracker is not None:
        await adopt_firecracker(Store(), firecracker, Console(), sha256=sha256)
        return
    if for_command is not None:
        runtimes += (runtime_of(for_command),)
    await setting_up.setup(
        Store(),
        Console(),
        runtimes or setting_up.DEFAULT_RUNTIMES,
        backends=[Backend(name) for name in backends or (Backend.MICROVM,)],
        verify=verify,
        fresh=fresh,
    )


@admin.command()
@click.option("--json", "as_json", is_flag=True, help="Print the verdicts as JSON.")
@click.option(
    "--timeout",
    "timeout_s",
    metavar="SECONDS",
    type=click.FloatRange(min=0, min_open=True),
    default=doctoring.DEADLINE_S,
    show_default=True,
    help="How long to wait for each driver; all are tried at the same time.",
)
@_command
async def doctor(as_json: bool, timeout_s: float) -> None:
    """Try every driver: whether it works here, how strongly it isolates, and what to do if not."""
    found = await doctoring.examine(Store(), deadline_s=timeout_s)
    if as_json:
        click.echo(json.dumps({name: doctoring.fields(name, verdict) for name, verdict in found.items()}))
        return
    for line in doctoring.table(found):
        click.echo(line)


@admin.group()
def images() -> None:
    """Images that sandboxes are made from."""


@images.command("list")
@_command
async def list_images() -> None:
    """All runtimes, and which are built; and the images by name that are here."""
    store = Store()
    for runtime in store.runtimes():
        state = f"{human_bytes(runtime.size_bytes):>8}  {runtime.created[:10]}" if runtime.built else "not built"
        click.echo(f"{runtime.name:<12} {runtime.digest[:12]}  {state:<20}  {runtime.description}")
    for image in store.library.images():
        state = f"{human_bytes(image.size_bytes):>8}  {image.created[:10]}"
        click.echo(f"{image.name:<12} {image.digest[:12]}  {state:<20}  image")


@images.command()
@click.argument("names", nargs=-1, required=True)
@_command
async def pull(names: tuple[str, ...]) -> None:
    """Fetch images by name, anew if they are here: [REGISTRY/]NAME[:TAG], docker-archive:FILE, oci:DIR."""
    store, console = Store(), Console()
    for name in (absolute(name, Path.cwd()) for name in names):
        facts = await store.library.pulled(name, console.step, fresh=True)
        console.done(f"image {name}", f"ready, {facts.digest[:12]}")


@images.command()
@click.argument("runtimes", nargs=-1)
@click.option("--fresh", is_flag=True, help="Build again though it is there, to get the packages' updates.")
@click.option(
    "--from",
    "context",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Build the Dockerfile in that folder, by buildah or docker.",
)
@click.option("--name", help="What `run --image` is to know that by.")
@_command
async def build(runtimes: tuple[str, ...], fresh: bool, context: Path | None, name: str | None) -> None:
    """Build images: of RUNTIMES, or of a Dockerfile."""
    store, console = Store(), Console()
    if (context is None) != (name is None) or (context is None) == (not runtimes):
        raise click.UsageError("give RUNTIMES, or --from and --name")
    if context is not None and name is not None:
        facts = await store.library.built(context.absolute(), name, console.step)
        console.done(f"image {name}", f"ready, {facts.digest[:12]}")
    for runtime in runtimes:
        if fresh:
            store.refresh(runtime)
        digest = await store.ensure(runtime, console.step)
        console.done(f"image {runtime}", f"ready, {digest[:12]}")


@images.command()
@click.argument("names", nargs=-1, required=True)
@_command
async def remove(names: tuple[str, ...]) -> None:
    """Remove images of runtimes, and images by name. Sandboxes that run keep theirs until they end."""
    store = Store()
    for name in (absolute(name, Path.cwd()) for name in names):
        known = store.library.has(name)
        click.echo(f"{name}: {human_bytes(await (store.library.remove if known else store.remove)(name))} freed")


@images.command()
@_command
async def prune() -> None:
    """Remove what nothing refers to any more: older images and kernels, downloaded packages; older images of ours in
    container engines.
    """
    store = Store()
    click.echo(f"{human_bytes(await store.prune())} freed")
    with doctoring.configured_drivers(store) as drivers:
        current = [runtime.digest for runtime in store.runtimes() if runtime.built]
        for what in await uninstalling.clear_engines(drivers, current):
            click.echo(f"{what} removed")


@images.command()
@_command
async def verify() -> int:
    """Read everything and compare it with its digest; what is damaged is removed, to be made anew."""
    return 0 if await setting_up.check(Store(), Console()) else 125


@admin.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@_command
async def uninstall(yes: bool) -> int:
    """List all that agentkernel made on this host, and remove it."""
    made = uninstalling.all_we_made(Store())
    if not made:
        click.echo("nothing to remove")
        return 0
    for part in made:
        click.echo(f"{human_bytes(part.size_bytes):>8}  {part.path}  ({part.what})")
    if not yes and not click.confirm("Remove all of this?", default=False):
        click.echo("nothing was removed")
        return 125
    with doctoring.configured_drivers(Store()) as drivers:
        for what in await uninstalling.clear_engines(drivers, None):
            click.echo(f"{what} removed")
    for part in made:
        click.echo(f"{part.path}: {human_bytes(await uninstalling.remove(part))} freed")
    return 0


if __name__ == "__main__":
    admin(prog_name="agentkernel")
