"""Images by name: which names are taken, and what of an image's own configuration holds for the commands in it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agentkernel.model.errors import Refused
from agentkernel.model.kinds import Feature
from agentkernel.model.readiness import Capabilities
from agentkernel.model.spec import ImageFacts, LeaseSpec
from agentkernel.policy.environment import checked_user

IMAGE_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,511}"
"""Anything that an engine may know as a name, with a host, tag or digest; never an option of a command."""


def checked_image(name: str) -> str:
    """The name. Raises Refused for what no image can be called."""
    if name and re.fullmatch(IMAGE_PATTERN, name) is None:
        raise Refused(
            f"Invalid request: image {name[:64]!r}", hint="Give a name as the engine knows it, such as debian:12."
        )
    return name


def image_defaults(facts: ImageFacts, capabilities: Capabilities) -> LeaseSpec:
    """What holds for every command in a sandbox of that image, unless the request says otherwise.

    The image's user is taken only where the driver lets commands choose theirs; elsewhere all run as uid 1000. An image
    was written by anybody: what of it could not stand in a request is left out, not refused.
    """
    user = facts.user if Feature.USER_ROOT in capabilities else ""
    return LeaseSpec(
        env={name: value for name, value in facts.env.items() if name and not {"=", "\0"} & set(name)},
        cwd=facts.cwd if facts.cwd.startswith("/") and "\0" not in facts.cwd else "",
        user=_taken(user),
        command=(*facts.entrypoint, *facts.command),
    )


def over(defaults: LeaseSpec, env: Mapping[str, str], cwd: str, user: str) -> LeaseSpec:
    """What a caller says over what the image says."""
    return LeaseSpec(
        env={**defaults.env, **env},
        cwd=cwd or defaults.cwd,
        user=user or defaults.user,
        command=defaults.command,
    )


def _taken(user: str) -> str:
    """A user as requests spell it; of `name:group` the name, whose group the guest knows."""
    for spelled in (user, user.partition(":")[0]):
        try:
            return checked_user(spelled)
        except Refused:
            continue
    return ""
