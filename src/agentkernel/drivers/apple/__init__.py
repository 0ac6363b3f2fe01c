"""Sandboxes by Apple's `container` on macOS 26 and later: each is a virtual machine of its own.

`commands` is what the program is told, pure; `table` the same as facts, to check it by; `answers` what it says, pure;
`program` runs it; `driver` makes containers and attaches the link. It has never met the real program: LIMITATIONS.md
says what stands in for it.
"""

from agentkernel.drivers.apple.about import ABOUT
from agentkernel.drivers.apple.driver import AppleDriver

__all__ = ["ABOUT", "AppleDriver"]
