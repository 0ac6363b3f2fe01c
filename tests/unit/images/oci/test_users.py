import pytest

from agentkernel.images.oci.layers import Unfit
from agentkernel.images.oci.users import resolve

PASSWD = b"root:x:0:0:root:/root:/bin/sh\nbroken\napp:x:12:34::/:\n"
GROUP = b"web:x:99:\n"


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("", ""),
        ("app", "app"),
        ("65532", "65532"),
        ("1:2", "1:2"),
        ("app:web", "12:99"),
        ("app:7", "12:7"),
        ("7:web", "7:99"),
        ("root", "root"),
    ],
)
def test_a_user_becomes_what_the_agent_reads(said, meant):
    assert resolve(said, PASSWD, GROUP) == meant


def test_root_is_root_where_no_file_says_so():
    assert resolve("root", b"", b"") == "0"
    assert resolve("root:root", b"", b"") == "0:0"


@pytest.mark.parametrize("said", ["nobody-here", "app:nobody", "nobody:0", "a b", "app:"])
def test_a_user_whom_the_image_does_not_know_is_refused(said):
    with pytest.raises(Unfit):
        resolve(said, PASSWD, GROUP)
