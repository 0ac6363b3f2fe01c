"""A guest that runs programs by name, and says so of others before it is asked."""

from __future__ import annotations

import os

from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.process import LinkProcess
from agentkernel.drivers.wasm.programs import PATTERNS, Foreign, program_of
from agentkernel.model.errors import Unsupported
from agentkernel.model.execution import ExecRequest


class WasmGuest(LinkGuest):
    """`Guest` over the guest link to a worker."""

    async def exec(self, request: ExecRequest) -> LinkProcess:
        """Start a program. Raises Unsupported for what only a Linux sandbox has, as the worker would too."""
        name = os.fsdecode(request.argv[0])
        if isinstance(program_of(name), Foreign):
            raise Unsupported(
                f"a wasm sandbox cannot run {name[:64]}",
                hint=f"it runs {' '.join(PATTERNS)}; other programs need another backend, such as firecracker",
            )
        return await super().exec(request)
