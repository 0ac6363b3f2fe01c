"""The user's configuration file and environment, read; what they mean is decided by `policy`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from agentkernel.model.errors import Refused
from agentkernel.policy.layers import Loaded, load


def load_config(path: Path, environ: Mapping[str, str]) -> Loaded:
    """The configuration of this user, and what its user should know of it; a file that is not there is an empty one.

    Raises:
        Refused: the file is no TOML, or holds what is not known or not allowed; the message names it.
    """
    try:
        user = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        user = {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise Refused(f"{path} is no TOML: {err}", hint="mend that line, or move the file away") from err
    return load(user=user, environ=environ, user_file=str(path))
