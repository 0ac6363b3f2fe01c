"""Where a request goes: by which driver, from which image, under which key of the pool."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import anyio

from agentkernel.daemon.builds import Builds
from agentkernel.daemon.facts import optional
from agentkernel.drivers.contract import Tell
from agentkernel.engine.engine import Engine
from agentkernel.engine.sandbox import Sandbox
from agentkernel.model.errors import Refused
from agentkernel.model.ids import Digest
from agentkernel.model.kinds import Feature, Mode
from agentkernel.model.spec import BootSpec, LeaseSpec
from agentkernel.policy.admission import Admitted, Choice, Offer, Wish, admit, admit_to
from agentkernel.policy.config import Config
from agentkernel.policy.images import image_defaults
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

    def command(self) -> tuple[str, ...]:
        """What runs here when a request names no command. Raises Refused where the image says nothing."""
        if not self.defaults.command:
            name = self.sandbox.key.spec.image_name
            raise Refused(f"Invalid request: the image {name} names no command", hint="Name one in command.")
        return self.defaults.command

    def facts(self) -> dict[str, Any]:
        """The reply fields `backend`, `vmm`, `isolation`, `warm`, `image`."""
        spec, readiness = self.sandbox.key.spec, self.sandbox.readiness
        return {
            "backend": str(wire_backend(spec.backend)),
            "vmm": optional(spec.vmm and str(spec.vmm)),
            "isolation": optional(readiness.isolation and str(readiness.isolation)),
            "warm": self.sandbox.was_warm,
            "image": optional(spec.image_name or None),
        }


@dataclass(frozen=True, slots=True)
class Aim:
    """What is to be lent.

    Attributes:
        defaults: what its image says of every command there; nothing for a runtime.
    """

    key: Key
    defaults: LeaseSpec = field(default_factory=LeaseSpec)


class Placing:
    """One daemon's way from a wish to a key."""

    def __init__(self, engine: Engine, builds: Builds, config: Config) -> None:
        self._engine = engine
        self._builds = builds
        self._config = config
        self._filled: set[Key] = set()

    async def aim(self, wish: Wish, mode: Mode, tell: Tell | None = None) -> Aim:
        """The pool's key for a wish, made known to the pool, once its image is there.

        Args:
            tell: hears what takes long.

        Raises:
            Refused, Busy, NotFound: policy's verdict; or what became of the image.
        """
        admitted = await self._admit(wish, tell)
        if admitted.image:
            return await self._aim_at_image(admitted, mode, tell)
        driver = self._engine.drivers[admitted.backend, admitted.vmm]
        if driver.programs is not None:
            ready = await self._builds.readied(driver, wish.runtime, tell)
            return Aim(self._known(Key(self._spec(admitted, wish.runtime, ready), mode)))
        spec = self._spec(admitted, wish.runtime, await self._builds.ensure(wish.runtime, tell))
        spec = replace(spec, warm_up=self._builds.warm_up(wish.runtime))
        return Aim(self._known(Key(spec, mode)))

    async def _aim_at_image(self, admitted: Admitted, mode: Mode, tell: Tell | None) -> Aim:
        driver = self._engine.drivers[admitted.backend, admitted.vmm]
        facts = await self._builds.pulled(driver, admitted.image, tell)
        spec = replace(self._spec(admitted, "", facts.digest), image_name=admitted.image)
        return Aim(self._known(Key(spec, mode)), image_defaults(facts, driver.capabilities))

    async def _admit(self, wish: Wish, tell: Tell | None) -> Admitted:
        """Policy's verdict, by the probes of the drivers that come into question; waits for those, and says so when
        it takes long: on first use a probe fetches what it tries.
        """
        image = wish.image or self._config.sandbox.image
        wanted = [
            choice
            for choice, driver in self._engine.drivers.items()
            if wish.backend in {None, choice[0]}
            and (wish.vmm is None or choice[1] in {None, wish.vmm})
            and (not image or Feature.IMAGES in driver.capabilities)
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
        admit_to((spec.backend, spec.vmm), wish, self._offers(), self._config, image_name=spec.image_name)

    def _offers(self) -> dict[Choice, Offer]:
        found = self._engine.readiness_now()
        return {
            key: Offer(found.get(key), driver.capabilities, driver.runtimes, driver.programs)
            for key, driver in self._engine.drivers.items()
        }

    def _spec(self, admitted: Admitted, runtime: str, image: Digest) -> BootSpec:
        resources = self._config.resources
        return BootSpec(
            backend=admitted.backend,
            runtime=runtime,
            image=image,
            vmm=admitted.vmm,
            vcpus=resources.vcpus,
            memory_mib=resources.memory_mb,
            disk_mib=resources.disk_mb,
            pids=resources.pids,
        )

    def fill(self, key: Key) -> None:
        """From now on, make sandboxes of that key ahead of time."""
        self._filled.add(key)
        self._known(key)

    def _known(self, key: Key) -> Key:
        pool = self._config.pool
        warm = warm_range(key.mode, key.spec.runtime, min_warm=pool.min_warm, max_warm=pool.max_warm)
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
