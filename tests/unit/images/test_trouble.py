import errno
from pathlib import Path

import pytest

from agentkernel.images.trouble import ChildError, explained
from agentkernel.model.errors import AgentkernelError, Busy, Refused

HERE = Path("/")


def told(error, **more):
    return explained(error, doing="building base", folder=HERE, **more)


def test_a_full_disk_says_what_filled_up_and_how_much_it_takes():
    error = told(OSError(errno.ENOSPC, "No space left on device"), need_mib=400)
    assert isinstance(error, Busy)
    for words in ("no space left in /", "building base", "about 400 MiB", "MiB free"):
        assert words in error.message
    assert "AGENTKERNEL_DATA" in error.hint


def test_a_full_disk_is_recognised_in_a_programs_last_words():
    assert isinstance(told(ChildError("dpkg", 1, "cannot copy: No space left on device\nE: dpkg failed")), Busy)


@pytest.mark.parametrize("words", ["Could not resolve 'archive.example'", "Unable to connect to archive.example:80"])
def test_no_network_may_be_tried_again_and_names_the_mirror(words):
    error = told(ChildError("apt-get", 100, f"Err:1\n  {words}\n"))
    assert error.retryable
    assert "AGENTKERNEL_MIRROR" in error.hint


def test_a_bad_signature_is_final_even_when_fetching_failed_too():
    error = told(ChildError("apt-get", 100, "W: GPG error: NO_PUBKEY 1234\nE: Failed to fetch x"))
    assert isinstance(error, Refused)
    assert "signature" in error.message


def test_a_folder_that_cannot_be_written_is_named():
    error = told(PermissionError(errno.EACCES, "Permission denied", "/data"))
    assert isinstance(error, Refused)
    assert "/data" in error.message


def test_our_own_errors_pass_as_they_are():
    error = Busy("x")
    assert told(error) is error


def test_anything_else_is_told_with_what_was_being_done():
    error = told(ChildError("mkfs.erofs", 1, "bad magic\n\n"))
    assert type(error) is AgentkernelError
    assert "building base failed: mkfs.erofs failed with status 1: bad magic" in error.message
