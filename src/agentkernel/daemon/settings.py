"""The user's configuration file and environment, read; what they mean is decided by `policy`."""

from __future__ import annotations

import logging
import tomllib
from collections.abc import Mapping
from pathlib import Path

from agentkernel.model.errors import Refused
from agentkernel.policy.config import Config
from agentkernel.policy.layers import load

log = logging.getLogger(__name__)


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """The configuration of this daemon; a file that is not there is an empty one.

    Raises:
        Refused: the file is no TOML, or holds what is not known or not allowed; the message names it.
    """
    try:
        user = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        user = {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise Refused(f"{path} is no TOML: {err}", hint="mend that line, or move the file away") from err
    loaded = load(user=user, environ=environ, user_file=str(path))
    for warning in loaded.warnings:
        log.warning("configuration", extra={"warning": warning})
    return loaded.config
