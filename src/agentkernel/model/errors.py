"""Errors: one class per decision that the caller can take, and the one table of what each becomes at every door.

`Refused` and its kinds: asking again is useless. `Busy`: ask later. `Broken`: take another sandbox. A deadline is the
builtin TimeoutError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


class AgentkernelError(Exception):
    """Something that the caller must decide about.

    Args:
        message: one line, what happened.
        hint: one line, what to do; empty when there is nothing to do.
    """

    code: ClassVar[str] = "internal"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class Refused(AgentkernelError):
    """The request cannot be carried out as it stands."""

    code = "invalid"


class Unsupported(Refused):
    """This driver, host or version cannot do it."""

    code = "unsupported"


class Denied(Refused):
    """Policy says no."""

    code = "denied"


class NotFound(Refused):
    """The named thing is not there."""

    code = "not_found"


class Busy(AgentkernelError):
    """No room now; the same request may succeed later."""

    code = "busy"
    retryable = True


class Broken(AgentkernelError):
    """The sandbox is dead or lies; another one may serve."""

    code = "broken"
    retryable = True


@dataclass(frozen=True, slots=True)
class Door:
    """What one error code becomes at each door."""

    retryable: bool
    http_status: int
    cli_exit: int
    mcp_code: int


DOORS: dict[str, Door] = {
    "invalid": Door(retryable=False, http_status=400, cli_exit=125, mcp_code=-32602),
    "unsupported": Door(retryable=False, http_status=501, cli_exit=125, mcp_code=-32601),
    "denied": Door(retryable=False, http_status=403, cli_exit=125, mcp_code=-32001),
    "not_found": Door(retryable=False, http_status=404, cli_exit=125, mcp_code=-32002),
    "busy": Door(retryable=True, http_status=429, cli_exit=125, mcp_code=-32003),
    "broken": Door(retryable=True, http_status=502, cli_exit=125, mcp_code=-32004),
    "timeout": Door(retryable=True, http_status=504, cli_exit=124, mcp_code=-32005),
    "internal": Door(retryable=False, http_status=500, cli_exit=125, mcp_code=-32603),
}
"""Error code to its meaning at every door. A test proves that every class above and every code of the protocol is in
it.
"""


def code_of(error: BaseException) -> str:
    """The stable code of any exception: our own, `timeout` for TimeoutError, else `internal`."""
    if isinstance(error, AgentkernelError):
        return error.code
    return "timeout" if isinstance(error, TimeoutError) else "internal"
