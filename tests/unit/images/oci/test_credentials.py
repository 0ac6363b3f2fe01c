import base64
import json

import pytest

from agentkernel.images.oci.credentials import Challenge, challenges, look_up
from agentkernel.model.errors import Refused

AUTH = base64.b64encode(b"me:pass:word").decode()


def write(folder, content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
    return {"HOME": "/nonexistent", "DOCKER_CONFIG": str(folder)}


@pytest.mark.parametrize("key", ["reg.example", "https://reg.example", "https://reg.example/v1/", "reg.example/a"])
def test_a_login_is_found(tmp_path, key):
    environ = write(tmp_path, {"auths": {"other.example": {"auth": "!"}, key: {"auth": AUTH}}})
    found = look_up("reg.example", "a/b", environ)
    assert (found.user, found.password) == ("me", "pass:word")
    assert not look_up("reg.example:5000", "a/b", environ).user


def test_the_nearest_entry_counts(tmp_path):
    near = base64.b64encode(b"near:x").decode()
    environ = write(tmp_path, {"auths": {"reg.example": {"auth": AUTH}, "reg.example/a": {"auth": near}}})
    assert look_up("reg.example", "a/b", environ).user == "near"
    assert look_up("reg.example", "c", environ).user == "me"


def test_podmans_file_comes_first(tmp_path):
    environ = write(tmp_path / "docker", {"auths": {"reg.example": {"auth": AUTH}}})
    (tmp_path / "run/containers").mkdir(parents=True)
    other = {"auths": {"reg.example": {"username": "podman", "password": "x"}}}
    (tmp_path / "run/containers/auth.json").write_text(json.dumps(other))
    assert look_up("reg.example", "a", environ).user == "me"
    assert look_up("reg.example", "a", {**environ, "XDG_RUNTIME_DIR": str(tmp_path / "run")}).user == "podman"


def test_a_helper_is_named_and_not_asked(tmp_path):
    environ = write(tmp_path, {"auths": {"reg.example": {}}, "credsStore": "pass"})
    found = look_up("reg.example", "a", environ)
    assert (found.helper, found.user) == ("pass", "")


@pytest.mark.parametrize("content", ["{", '{"auths": {"reg.example": {"auth": "%%%"}}}', "[" * 100_000])
def test_a_malformed_file_is_named(tmp_path, content):
    environ = write(tmp_path, content)
    with pytest.raises(Refused) as caught:
        look_up("reg.example", "a", environ)
    assert str(tmp_path) in caught.value.message


def test_no_file_is_no_login():
    assert not look_up("reg.example", "a", {"HOME": "/nonexistent"}).basic


def test_a_password_is_never_shown(tmp_path):
    assert "pass" not in repr(look_up("reg.example", "a", write(tmp_path, {"auths": {"reg.example": {"auth": AUTH}}})))


def test_challenges_are_read():
    header = 'Bearer realm="https://auth.example/token?a=b,c",service="reg", scope="repository:a:pull,push"'
    assert challenges(header) == [
        Challenge(
            "bearer",
            {"realm": "https://auth.example/token?a=b,c", "service": "reg", "scope": "repository:a:pull,push"},
        )
    ]
    assert [each.scheme for each in challenges('Basic realm="x", Bearer realm="y"')] == ["basic", "bearer"]
    assert challenges("") == challenges("Negotiate") == []
