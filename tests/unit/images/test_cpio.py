import shutil
import subprocess

import pytest

from agentkernel.images import cpio

MEMBERS = [
    cpio.directory("dev"),
    cpio.character_device("dev/console", 5, 1),
    cpio.regular("init", b"#!/bin/sh\n", 0o755),
    cpio.regular("odd", b"123"),
    cpio.regular("empty", b""),
]


def test_the_same_members_give_the_same_bytes():
    assert cpio.archive(MEMBERS) == cpio.archive(list(MEMBERS))


def test_an_entry_has_the_header_that_the_kernel_documents():
    entry = cpio.archive([cpio.regular("a", b"xyz", 0o644)])
    fields = [int(entry[6 + 8 * i : 14 + 8 * i], 16) for i in range(13)]
    assert entry[:6] == b"070701"
    assert fields == [1, 0o100644, 0, 0, 1, 0, 3, 0, 0, 0, 0, 2, 0]
    assert entry[110:112] == b"a\0"
    assert entry[112:115] == b"xyz"


def test_every_header_and_content_begins_at_a_multiple_of_four():
    data = cpio.archive(MEMBERS)
    at = data.find(b"070701")
    while at >= 0:
        assert at % 4 == 0
        at = data.find(b"070701", at + 1)


def test_an_archive_ends_with_a_trailer_and_fills_its_last_block():
    data = cpio.archive([])
    assert b"TRAILER!!!\0" in data
    assert len(data) % 512 == 0


@pytest.mark.skipif(shutil.which("cpio") is None, reason="no cpio program on this host to read the archive with")
def test_cpio_lists_what_was_put_in():
    listed = subprocess.run(["cpio", "-t", "--quiet"], input=cpio.archive(MEMBERS), capture_output=True, check=True)
    assert listed.stdout.decode().split() == [member.name for member in MEMBERS]
