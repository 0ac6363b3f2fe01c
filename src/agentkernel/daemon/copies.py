"""Answers what stops, copies and keeps running sandboxes: pause, fork, snapshots."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import UnsetType

from agentkernel.daemon.facts import optional, snapshot_facts
from agentkernel.daemon.placing import Place, Placing
from agentkernel.engine.engine import Engine
from agentkernel.engine.leases import Lease
from agentkernel.model.ids import LeaseId, SnapshotId
from agentkernel.policy.admission import Wish
from agentkernel.protocol import replies, requests

Request = (
    requests.SandboxPause
    | requests.SandboxResume
    | requests.SandboxFork
    | requests.SnapshotTake
    | requests.SnapshotRestore
    | requests.SnapshotList
    | requests.SnapshotRemove
)


class Copies:
    """Those requests' replies.

    Args:
        acquired: the reply to whoever gets that lease, for that `request_id`.
        opened: the path of a lease's socket; None where there can be none.
    """

    def __init__(
        self,
        engine: Engine,
        placing: Placing,
        acquired: Callable[[Lease, str | UnsetType], replies.Acquired],
        opened: Callable[[Lease], str | None],
    ) -> None:
        self._engine = engine
        self._placing = placing
        self._acquired = acquired
        self._opened = opened

    async def answer(self, request: Request) -> replies.Reply:
        """As `Service.answer`."""
        match request:
            case requests.SandboxPause(id=lease, request_id=request_id):
                await self._engine.pause(LeaseId(lease))
                return replies.Paused(id=lease, request_id=request_id)
            case requests.SandboxResume(id=lease, request_id=request_id):
                await self._engine.resume(LeaseId(lease))
                return replies.Resumed(id=lease, request_id=request_id)
            case requests.SandboxFork():
                return await self._fork(request)
            case requests.SnapshotTake(id=lease, request_id=request_id):
                taken = await self._engine.snapshot(LeaseId(lease))
                return replies.SnapshotTaken(snapshot=taken.id, size_bytes=taken.size_bytes, request_id=request_id)
            case requests.SnapshotRestore():
                return await self._restore(request)
            case requests.SnapshotList(request_id=request_id):
                return replies.SnapshotsReply(
                    snapshots=[snapshot_facts(snapshot) for snapshot in self._engine.snapshots.all()],
                    request_id=request_id,
                )
            case requests.SnapshotRemove(snapshot=snapshot, request_id=request_id):
                await self._engine.snapshots.remove(SnapshotId(snapshot))
                return replies.SnapshotRemoved(snapshot=snapshot, request_id=request_id)

    async def _fork(self, request: requests.SandboxFork) -> replies.Forked:
        children = await self._engine.fork(LeaseId(request.id), request.count)
        paths = [path for child in children if (path := self._opened(child)) is not None]
        facts = Place(children[0].sandbox).facts()
        del facts["warm"]
        return replies.Forked(
            ids=[child.id for child in children],
            vsock_paths=optional(paths or None),
            expires_in_s=round(self._engine.leases.ttl_s),
            request_id=request.request_id,
            **facts,
        )

    async def _restore(self, request: requests.SnapshotRestore) -> replies.Acquired:
        spec = self._engine.snapshots.get(SnapshotId(request.snapshot)).spec
        await self._engine.readiness((spec.backend, spec.vmm))
        self._placing.admit_to(spec, Wish(spec.runtime))
        return self._acquired(await self._engine.restore(SnapshotId(request.snapshot)), request.request_id)
