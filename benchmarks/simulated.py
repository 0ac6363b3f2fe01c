"""The daemon with simulated guests in its own process, started by `common.daemon(simulated=True)`.

Everything else is real: sockets, policy, pool, journal, images, the guest link. So a request's time here is the
daemon's own, and the simulated agent's few hundred microseconds.
"""

from agentkernel.daemon import app
from agentkernel.drivers.fake import FakeDriver
from agentkernel.model.kinds import Vmm


def simulated_driver(*_: object) -> FakeDriver:
    """In place of QemuDriver."""
    return FakeDriver(vmm=Vmm.QEMU)


if __name__ == "__main__":
    vars(app)["QemuDriver"] = simulated_driver
    raise SystemExit(app.main())
