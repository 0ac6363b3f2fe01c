"""The user that an image names, in the form that a guest's agent reads. Pure.

The agent knows `NAME`, `UID` and `UID:GID`; an image may say `NAME:GROUP` too. Source: the OCI image specification 1.1,
"User".
"""

from __future__ import annotations

from agentkernel.images.oci.layers import Unfit


def resolve(user: str, passwd: bytes, group: bytes) -> str:
    """The user with names of groups, and of users who come with one, turned into numbers by the image's own files.

    Raises:
        Unfit: nobody there is called so.
    """
    name, colon, its_group = user.partition(":")
    uid = _number(name, passwd, user) if name else "0"
    if not colon:
        return name if name != "root" or _find(name, passwd) else uid
    return f"{uid}:{_number(its_group, group, user)}"


def _number(name: str, database: bytes, user: str) -> str:
    if name.isdecimal():
        return name
    number = _find(name, database) or ("0" if name == "root" else None)
    if number is None:
        raise Unfit(f"it is to run as {user[:60]!a}, and has nobody called {name[:60]!a}")
    return number


def _find(name: str, database: bytes) -> str | None:
    for line in database.decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and fields[2].isdecimal():
            return fields[2]
    return None
