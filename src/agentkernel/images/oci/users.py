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
    uid = name if not name or name.isdecimal() else _number_of(name, passwd, user)
    if not colon:
        return "0" if uid == "0" else name
    gid = its_group if its_group.isdecimal() else _number_of(its_group, group, user)
    return f"{uid or 0}:{gid}"


def _number_of(name: str, database: bytes, user: str) -> str:
    for line in database.decode(errors="replace").splitlines():
        fields = line.split(":")
        if len(fields) > 2 and fields[0] == name and fields[2].isdecimal():
            return fields[2]
    if name == "root":
        return "0"
    raise Unfit(f"it is to run as {user[:60]!a}, and has nobody called {name[:60]!a}")
