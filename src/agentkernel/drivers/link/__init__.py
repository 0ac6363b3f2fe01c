"""LinkGuest: the one implementation of `Guest`, over a byte stream to anything that speaks the guest link.

This room moves bytes, waits, and tells callers. What may be sent and what a guest may answer is decided by `wire`; how
the stream is made is the business of each driver.

One task reads and hands every event to its channel, where it waits, bounded by the channel's window, until somebody
takes it. One task writes; a frame for an idle stream goes out from its caller's own task, because a switch costs as
much as the rest of a round trip. When the stream ends or the guest lies, there is one reason, and every call that waits
raises Broken with it.
"""

from agentkernel.drivers.link.guest import LinkGuest
from agentkernel.drivers.link.plain_socket import PlainSocket
from agentkernel.drivers.link.process import LinkProcess

__all__ = ["LinkGuest", "LinkProcess", "PlainSocket"]
