"""The guest link as bytes: what may be sent, what a guest may answer, and when it lies.

`HostLink` is the host's side and `GuestLink` the guest's, both without I/O: bytes in, events out. This room decides
whether a frame is allowed; moving bytes, waiting and telling callers is `drivers.link`. The reference is
guest/PROTOCOL.md.

Two kinds of mistake are kept apart. What a peer did wrong is a LinkError, and the link is dead. What our own caller did
wrong (a NUL in a path, a request too long, a window that is used up) is a ValueError, and nothing has been sent.
"""

from agentkernel.wire.errors import LinkError
from agentkernel.wire.events import Attached, Detached, Received
from agentkernel.wire.guest import GuestLink
from agentkernel.wire.host import HostLink

__all__ = ["Attached", "Detached", "GuestLink", "HostLink", "LinkError", "Received"]
