import pytest

from agentkernel.images import packages


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("libc6_2.36-9+deb12u10_amd64.deb", ("libc6", "2.36-9+deb12u10")),
        ("git_1%3a2.39.5-0_amd64.deb", ("git", "1:2.39.5-0")),
        ("linux-image-6.1.0-1-cloud_6.1.1-1~bpo12+1_amd64.deb", ("linux-image-6.1.0-1-cloud", "6.1.1-1~bpo12+1")),
    ],
)
def test_a_package_file_tells_its_name_and_version(file, expected):
    assert packages._name_and_version(file) == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("After this operation, 172 MB of additional disk space will be used.", 172_000_000),
        ("After this operation, 1,024 kB of additional disk space will be used.", 1_024_000),
        ("After this operation, 5 MB disk space will be freed.", 0),
        ("", 0),
    ],
)
def test_the_room_that_apt_announces_is_understood(output, expected):
    assert packages._unpacked_bytes(output) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [("dlstatus:4:37.5:Retrieving", 37.5), ("pmstatus:dpkg:10:x", 10.0), ("dlstatus:broken", None), ("other", None)],
)
def test_status_lines_give_a_percentage(line, expected):
    assert packages._percent(line) == expected


@pytest.mark.parametrize(
    "setting", ["AllowInsecureRepositories", "AllowWeakRepositories", "AllowDowngradeToInsecureRepositories"]
)
def test_no_permission_to_skip_signatures_is_taken_over(setting):
    assert packages._HOST_SETTINGS_LEFT_OUT.match(f'Acquire::{setting} "true";')


def test_a_proxy_is_taken_over():
    assert not packages._HOST_SETTINGS_LEFT_OUT.match('Acquire::http::Proxy "http://proxy.example:3128";')
