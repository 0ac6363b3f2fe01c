"""What replies say of drivers, places and snapshots."""

from __future__ import annotations

from typing import TypeVar

from msgspec import UNSET, UnsetType

from agentkernel import __version__
from agentkernel.engine.engine import Engine
from agentkernel.engine.snapshots import Snapshot
from agentkernel.policy.admission import strength
from agentkernel.protocol import replies, requests
from agentkernel.protocol.words import wire_backend

T = TypeVar("T")


def optional(value: T | None) -> T | UnsetType:
    """A reply's optional field: left out when there is nothing to say."""
    return UNSET if value is None else value


def driver_facts(engine: Engine) -> dict[str, replies.DriverStatus]:
    """The verdicts that are in, by the wire's word; of several monitors the strongest that works, else the first."""
    drivers: dict[str, replies.DriverStatus] = {}
    for (backend, vmm), verdict in sorted(engine.readiness_now().items(), key=lambda known: strength(*known)):
        name = str(wire_backend(backend))
        if name not in drivers or (verdict.usable and not drivers[name].usable):
            drivers[name] = replies.DriverStatus(
                usable=verdict.usable,
                vmm=optional(vmm and str(vmm)),
                isolation=optional(verdict.isolation and str(verdict.isolation)),
                reason=optional(verdict.reason or None),
                remedy=optional(verdict.remedy or None),
            )
    return drivers


def status_reply(engine: Engine, request: requests.Status) -> replies.StatusReply:
    """How things stand."""
    counts, drivers = engine.counts(), driver_facts(engine)
    by_mode = {str(mode): count for mode, count in counts.warm_by_mode.items()}
    return replies.StatusReply(
        warm=counts.warm,
        in_use=counts.in_use,
        min_warm=counts.min_warm,
        max_warm=counts.max_warm,
        backends=[name for name, verdict in drivers.items() if verdict.usable],
        agent_stats=optional(by_mode or None),
        drivers=drivers,
        booting=counts.booting,
        waiting=counts.waiting,
        version=__version__,
        timings=optional(engine.timings.summary() if request.timings else None),
        request_id=request.request_id,
    )


def snapshot_facts(snapshot: Snapshot) -> replies.SnapshotFacts:
    """One line of `snapshots`."""
    return replies.SnapshotFacts(
        snapshot=snapshot.id,
        runtime=snapshot.spec.runtime,
        taken_s=int(snapshot.taken_s),
        size_bytes=snapshot.size_bytes,
        image=optional(snapshot.spec.image_name or None),
    )
