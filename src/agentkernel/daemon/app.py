"""The daemon's life: lock, configuration, engine, socket; then waiting; then the same backwards."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import anyio.abc

from agentkernel import __version__
from agentkernel.daemon.listener import listening, locked
from agentkernel.daemon.logs import log_to
from agentkernel.daemon.server import accepting
from agentkernel.daemon.service import Service
from agentkernel.engine.engine import Engine
from agentkernel.engine.snapshots import Snapshots
from agentkernel.home.drivers import drivers_of
from agentkernel.home.places import Places, places, prepare
from agentkernel.home.settings import load_config
from agentkernel.images.store import Store
from agentkernel.journal import Journal
from agentkernel.model.errors import AgentkernelError, code_of
from agentkernel.policy.config import Config
from agentkernel.pool.events import HostLimits

log = logging.getLogger(__name__)

LAST_REPLIES_S = 0.1
"""How long those who were answered by the end of their sandbox have to get that answer."""


def main() -> int:
    """Run until stopped; returns the exit status."""
    parser = argparse.ArgumentParser(prog="agentkernel daemon", description="Lend sandboxes over a Unix socket.")
    parser.add_argument("--foreground", action="store_true", help="log to standard error")
    parser.add_argument("--ready-fd", type=int, help="write `ready` or one JSON error there, then close it")
    options = parser.parse_args()
    ready = Readiness(options.ready_fd)
    os.umask(0o077)
    try:
        home = places(os.environ)
        prepare(home.home)
        loaded = load_config(home.config, os.environ)
        config = loaded.config
        log_to(None if options.foreground else home.log, as_json=config.daemon.log_format == "json")
        for warning in loaded.warnings:
            log.warning("configuration", extra={"warning": warning})
        with locked(home):
            anyio.run(serve, home, config, ready)
    except AgentkernelError as err:
        ready.failed(err)
        sys.stderr.write(f"agentkernel: {err.message}\n" + (f"agentkernel: {err.hint}\n" if err.hint else ""))
        return 1
    return 0


class Readiness:
    """Tells whoever started us, once, whether we listen."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor
        if descriptor is not None:
            os.set_inheritable(descriptor, False)

    def reached(self) -> None:
        """We accept connections."""
        self._tell("ready\n")

    def failed(self, err: AgentkernelError) -> None:
        """We shall not."""
        self._tell(json.dumps({"message": err.message, "hint": err.hint, "code": code_of(err)}))

    def _tell(self, text: str) -> None:
        if self._descriptor is not None:
            with os.fdopen(self._descriptor, "w") as pipe:
                pipe.write(text)
            self._descriptor = None


async def serve(home: Places, config: Config, ready: Readiness) -> None:
    """Listen, answer, and end everything when told to."""
    store = Store(os.environ)
    drivers = drivers_of(config, store, environ=os.environ, data=store.data, trials=home.sandboxes)
    limits = HostLimits(
        max_sandboxes=config.pool.max_sandboxes,
        max_booting=max(1, os.cpu_count() or 1),
        max_age_s=config.pool.max_age_s,
    )
    async with Journal.open(home.journal) as journal:
        engine = Engine(
            drivers=drivers,
            journal=journal,
            directory=home.sandboxes,
            limits=limits,
            snapshots=Snapshots(home.snapshots),
            queue_timeout_s=config.pool.queue_timeout_s,
            lease_ttl_s=config.pool.lease_ttl_s,
            idle_pause_s=config.pool.idle_pause_s,
            templates=config.pool.templates and config.security.share_template_memory,
        )
        async with engine.running():
            service = Service(engine, store, config, home)
            async with service.running(), anyio.create_task_group() as group:
                await _serve_until_stopped(service, home, config, ready, group)
    log.info("stopped")


async def _serve_until_stopped(
    service: Service, home: Places, config: Config, ready: Readiness, group: anyio.abc.TaskGroup
) -> None:
    """Serve; then close the door, end every sandbox (which answers whoever waits for one), and hang up."""
    with listening(home.socket) as listener, _stopping_signals(service.stopping):
        group.start_soon(service.fill)
        group.start_soon(_stop_when_idle, service, config.daemon.idle_exit_s)
        async with accepting(listener, service, group, line_cap_bytes=config.daemon.line_cap_bytes):
            log.info("listening", extra={"pid": os.getpid(), "version": __version__})
            ready.reached()
            await service.stopping.wait()
    await service.drain()
    await anyio.sleep(LAST_REPLIES_S)
    group.cancel_scope.cancel()


async def _stop_when_idle(service: Service, idle_exit_s: float) -> None:
    """End the daemon when nobody has asked for anything for that long; 0 for never."""
    while idle_exit_s:
        rest_s = service.last_used_s + idle_exit_s - time.monotonic()
        if rest_s <= 0 and not service.active:
            log.info("idle, stopping", extra={"idle_s": idle_exit_s})
            service.stopping.set()
            return
        await anyio.sleep(max(rest_s, 1.0))


@contextmanager
def _stopping_signals(stopping: anyio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
