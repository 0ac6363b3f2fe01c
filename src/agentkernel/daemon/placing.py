"""Where a request goes: by which driver, from which image, under which key of the pool."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import anyio

from agentkernel.daemon.builds import Builds
from agentkernel.daemon.facts import optional
from agentkernel.drivers.contract import Tell
from agentkernel.engine.engine import Engine
from agentkernel.engine.sandbox import Sandbox
from agentkernel.model.kinds import Feature, Mode
from agentkernel.model.spec import BootSpec, LeaseSpec
from agentkernel.policy.admission import Admitted, Choice, Offer, Wish, admit, admit_to
from agentkernel.policy.config import Config
from agentkernel.policy.presets import warm_range
from agentkernel.pool.events import Key, Limits
from agentkernel.protocol import requests
from agentkernel.protocol.requests import given
from agentkernel.protocol.words import WireBackend, wire_backend

PROBE_PATIENCE_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command runs, with what its lease says of every command there, and what a reply says about it."""

    sandbox: Sandbox
    defaults: LeaseSpec = field(default_factory=LeaseSpec)

    def facts(self) -> dict[str, Any]:
        """The reply fields `backend`, `vmm`, `isolation`, `warm`."""
        spec, readiness = self.sandbox.key.spec, self.sandbox.readiness
        return {
            "backend": str(wire_backend(spec.backend)),
            "vmm": optional(spec.vmm and str(spec.vmm)),
            "isolation": optional(readiness.isolation and str(readiness.isolation)),
            "warm": self.sandbox.was_warm,
        }


class Placing:
    """One daemon's way from a wish to a key."""

    def __init__(self, engine: Engine, builds: Builds, config: Config) -> None:
        self._engine = engine
        self._builds = builds
        self._config = config
        self._filled: set[Key] = set()

    async def admit(self, wish: Wish, tell: Tell | None = None) -> Admitted:
        """Policy's verdict, by the probes of the drivers that come into question; waits for those, and says so when
        it takes long: on first use a probe fetches what it tries.
        """
        wanted = [
            choice
            for choice in self._engine.drivers
            if wish.backend in {None, choice[0]} and (wish.vmm is None or choice[1] in {None, wish.vmm})
        ]
        with anyio.move_on_after(PROBE_PATIENCE_S) as patience:
            await self._engine.readiness(*wanted)
        if patience.cancelled_caught:
            if tell is not None:
                await tell("first use: finding or fetching what makes sandboxes here, then trying it")
            await self._engine.readiness(*wanted)
        return admit(wish, self._offers(), self._config)

    def admit_to(self, spec: BootSpec, wish: Wish) -> None:
        """May this run in a sandbox of that specification, which is there? Its driver has been tried then."""
        admit_to((spec.backend, spec.vmm), wish, self._offers(), self._config)

    def _offers(self) -> dict[Choice, Offer]:
        found = self._engine.readiness_now()
        return {key: Offer(verdict, self._engine.drivers[key].capabilities) for key, verdict in found.items()}

    async def key(self, admitted: Admitted, runtime: str, mode: Mode, tell: Tell | None, *, fill: bool = False) -> Key:
        """The pool's key, made known to it. With `fill`, sandboxes of it are made ahead of time from now on."""
        resources, pool = self._config.resources, self._config.pool
        spec = BootSpec(
            backend=admitted.backend,
            runtime=runtime,
            image=await self._builds.ensure(runtime, tell),
            vmm=admitted.vmm,
            vcpus=resources.vcpus,
            memory_mib=resources.memory_mb,
            disk_mib=resources.disk_mb,
            pids=resources.pids,
        )
        warm = warm_range(mode, runtime, min_warm=pool.min_warm, max_warm=pool.max_warm)
        key = Key(spec, mode)
        if fill:
            self._filled.add(key)
        self._engine.configure(key, Limits(warm.min_warm, warm.max_warm), fill=key in self._filled)
        return key


def wish_of(request: requests.Run | requests.Acquire) -> Wish:
    """What of a request policy judges."""
    running = request if isinstance(request, requests.Run) else None
    needs = {Feature.STDIN} if running and given(running.stdin) is not None else set()
    if running and running.files:
        needs.add(Feature.FILES)
    return Wish(
        runtime=request.runtime,
        backend=WireBackend(request.backend).choice,
        command=running.command if running else None,
        vmm=given(request.vmm),
        minimum_isolation=given(request.minimum_isolation),
        cwd=request.cwd,
        user=request.user,
        image=request.image,
        profile=request.profile,
        network=request.network,
        limits=request.limits,
        needs=frozenset(needs),
    )
