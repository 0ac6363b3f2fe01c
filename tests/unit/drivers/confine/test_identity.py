"""private uids: derived, spread, within what is mapped."""

from __future__ import annotations

import pytest

from agentkernel.drivers.confine.identity import FIRST_UID, UID_COUNT, UidRange, private_uid, uid_range
from agentkernel.model.errors import Unsupported
from agentkernel.model.ids import SandboxId, new_sandbox_id

WHOLE = "         0          0 4294967295\n"


def test_a_uid_follows_from_the_id_alone() -> None:
    sandbox = new_sandbox_id()
    assert private_uid(sandbox) == private_uid(sandbox)
    assert FIRST_UID <= private_uid(sandbox) < FIRST_UID + UID_COUNT


def test_a_taken_uid_is_passed_over_and_the_range_wraps() -> None:
    uids = UidRange(100, 3)
    last = SandboxId("2")
    assert private_uid(last, within=uids) == 102
    assert private_uid(last, within=uids, taken={102}) == 100
    assert private_uid(last, within=uids, taken={102, 100}) == 101
    with pytest.raises(Unsupported):
        private_uid(last, within=uids, taken={100, 101, 102})


def test_many_ids_hardly_share_a_uid() -> None:
    assert len({private_uid(new_sandbox_id()) for _ in range(1000)}) >= 998


def test_the_host_itself_uses_the_unassigned_range() -> None:
    assert uid_range(WHOLE) == UidRange(FIRST_UID, UID_COUNT)


def test_a_rootless_container_uses_the_upper_half_of_what_it_has() -> None:
    assert uid_range("0 1000 1\n1 100000 65536\n") == UidRange(1 + 32768, 32768)


def test_a_container_with_one_uid_is_refused() -> None:
    with pytest.raises(Unsupported, match="only 1 uids"):
        uid_range("0 1000 1\n")
