"""A guest that runs programs by name, and says so of others before it is asked."""

from __future__ import annotations

import os

from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.process import LinkProcess
from agentkernel.drivers.worker.programs import runs
from agentkernel.model.errors import Unsupported
from agentkernel.model.execution import ExecRequest


class WorkerGuest(LinkGuest):
    """`Guest` over the guest link to a worker. Drivers say in a subclass what it is and runs."""

    name: str
    patterns: tuple[str, ...]

    async def exec(self, request: ExecRequest) -> LinkProcess:
        """Start a program. Raises Unsupported for what only a Linux sandbox has, as the worker would too."""
        name = os.fsdecode(request.argv[0])
        if not runs(name, self.patterns):
            raise Unsupported(
                f"a {self.name} sandbox cannot run {name[:64]}",
                hint=f"it runs {' '.join(self.patterns)}; other programs need another backend, such as firecracker",
            )
        return await super().exec(request)
