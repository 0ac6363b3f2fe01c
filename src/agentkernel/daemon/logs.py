"""The log: one line an event, as text or JSON, with the facts that came with it."""

from __future__ import annotations

import json
import logging
import logging.handlers
import sys
import time
from pathlib import Path

MOST_BYTES = 4 * 1024 * 1024
OLDER_FILES = 2
_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class Lines(logging.Formatter):
    """`time level name: message key=value ...`, or the same as a JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line, but for a traceback below it."""
        facts = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.msecs):03d}Z"
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            entry = {"time": stamp, "level": record.levelname.lower(), "logger": record.name}
            entry |= {"message": record.getMessage(), **facts} | ({"traceback": trace} if trace else {})
            return json.dumps(entry, default=str)
        said = " ".join([record.getMessage(), *(f"{name}={value}" for name, value in facts.items())])
        return f"{stamp} {record.levelname.lower():<7} {record.name}: {said}" + (f"\n{trace}" if trace else "")


def log_to(path: Path | None, *, as_json: bool) -> None:
    """Send everything from `info` up to a file of at most 4 MiB (two older ones are kept), or to standard error."""
    handler: logging.Handler
    if path is None:
        handler = logging.StreamHandler(sys.stderr)
    else:
        handler = logging.handlers.RotatingFileHandler(path, maxBytes=MOST_BYTES, backupCount=OLDER_FILES)
    handler.setFormatter(Lines(as_json=as_json))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
