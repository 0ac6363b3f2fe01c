"""Everything but `run`: the daemon's life, setup, images, doctor. Imported only when one of these is asked for."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import click

from agentkernel import __version__
from agentkernel.cli.admin_commands import doctor, images, setup, uninstall
from agentkernel.cli.hot import EXIT_OURS, Failure, complain, socket_path
from agentkernel.cli.starting import start_daemon, stop_daemon
from agentkernel.client import Connection, DaemonError


class Commands(click.Group):
    """A group that ends with our exit code and one line, never a traceback, when we fail."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the subcommand."""
        try:
            return super().invoke(ctx)
        except Failure as failure:
            complain(failure.message, failure.hint)
            ctx.exit(failure.code)
        except DaemonError as err:
            complain(str(err), err.hint)
            ctx.exit(EXIT_OURS)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentkernel")
def main() -> None:
    """Run what AI agents want to run, each command in a sandbox of its own."""


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(arguments: tuple[str, ...]) -> None:
    """Run one command in a fresh sandbox (agentkernel run --help)."""
    raise Failure("run must be the first word", f"agentkernel run {' '.join(arguments)}")


@main.group()
def daemon() -> None:
    """Start, stop and watch the daemon."""


@daemon.command()
@click.option("--foreground", is_flag=True, help="Stay in the terminal and log to it.")
@click.option("--no-template", is_flag=True, help="Boot every sandbox cold.")
def start(*, foreground: bool, no_template: bool) -> None:
    """Start the daemon; one that runs already is fine."""
    if no_template:
        os.environ["AGENTKERNEL_POOL_TEMPLATES"] = "false"
    if foreground:
        os.execv(sys.executable, [sys.executable, "-m", "agentkernel.daemon", "--foreground"])  # noqa: S606
    start_daemon(socket_path())
    click.echo(f"listening at {socket_path()}")


@daemon.command()
def stop() -> None:
    """Stop the daemon and everything it holds."""
    click.echo("stopped" if stop_daemon(socket_path()) else "no daemon was running")


@daemon.command()
def restart() -> None:
    """Stop the daemon, then start one of this version."""
    stop_daemon(socket_path())
    start_daemon(socket_path())
    click.echo(f"listening at {socket_path()}")


@daemon.command()
@click.option("--timings", is_flag=True, help="Show how long each stage of an exec takes.")
@click.option("--json", "as_json", is_flag=True, help="Print the daemon's reply as it is.")
def status(*, timings: bool, as_json: bool) -> None:
    """Show what the daemon holds."""
    with _connected() as connection:
        reply = connection.ask("status", timings=timings)
    if as_json:
        click.echo(json.dumps(reply))
        return
    click.echo(f"warm {reply['warm']} (kept: {reply['min_warm']} to {reply['max_warm']}), in use {reply['in_use']}")
    for name, facts in reply.get("drivers", {}).items():
        click.echo(f"{name}: {_verdict(facts)}")
    for stage, numbers in reply.get("timings", {}).items():
        columns = "  ".join(f"{name} {numbers[name]:>9.3f}" for name in ("min", "p50", "p90", "p99"))
        click.echo(f"{stage:<9} n {numbers['n']:>6}  {columns}  ms")


@daemon.command()
@click.option("-n", "--lines", default=50, show_default=True, help="How many of the last lines.")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
def logs(*, lines: int, follow: bool) -> None:
    """Show the daemon's log."""
    path = _home() / "daemon.log"
    if not path.exists():
        raise Failure(f"there is no log at {path}", "start the daemon: agentkernel daemon start")
    with path.open(encoding="utf-8", errors="replace") as log:
        for line in deque(log, maxlen=lines):
            click.echo(line, nl=False)
        while follow:
            line = log.readline()
            if line:
                click.echo(line, nl=False)
            else:
                time.sleep(0.2)


main.add_command(doctor)
main.add_command(setup)
main.add_command(images)
main.add_command(uninstall)


def _verdict(facts: dict[str, Any]) -> str:
    if facts["usable"]:
        detail = f" ({facts['reason']})" if facts.get("reason") else ""
        by = f" by {facts['vmm']}" if facts.get("vmm") else ""
        return f"usable{by}, isolation {facts['isolation']}{detail}"
    remedy = f"; {facts['remedy']}" if facts.get("remedy") else ""
    return f"not usable: {facts.get('reason') or 'unknown'}{remedy}"


def _home() -> Path:
    if os.environ.get("AGENTKERNEL_HOME"):
        return Path(os.environ["AGENTKERNEL_HOME"])
    return Path(socket_path()).parent if not os.environ.get("HOME") else Path(os.environ["HOME"]) / ".agentkernel"


def _connected() -> Connection:
    try:
        return Connection(socket_path())
    except OSError as err:
        raise Failure(f"no daemon answers at {socket_path()}: {err}", "start one: agentkernel daemon start") from None
