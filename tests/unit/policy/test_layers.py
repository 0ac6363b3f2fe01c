"""Files, environment and flags to one configuration."""

from __future__ import annotations

from typing import Any

import pytest

from agentkernel.model.errors import Denied, Refused
from agentkernel.policy.config import KEYS, Config, Project
from agentkernel.policy.layers import load


def test_nothing_said_means_the_defaults() -> None:
    assert load().config == Config()
    assert load().warnings == ()


def test_every_key_is_documented_and_its_default_is_allowed() -> None:
    for path, known in KEYS.items():
        assert known.rule.meaning.endswith(".")
        if known.default is not None:
            value = list(known.default) if isinstance(known.default, tuple) else known.default
            assert load(flags={path: value}).config == Config()


def test_the_schema_has_every_published_section() -> None:
    assert {path.rpartition(".")[0] for path in KEYS} == {
        "sandbox",
        "resources",
        "security",
        "security.domains",
        "agent",
        "microvm",
        "docker",
        "podman",
        "images",
        "pool",
        "daemon",
    }


def test_the_users_file_sets_anything() -> None:
    found = load(user={"resources": {"memory_mb": 2048}, "security": {"domains": {"block": ["x.org"]}}}).config
    assert found.resources.memory_mb == 2048
    assert found.security.domains.block == ("x.org",)


def test_later_layers_override_earlier_ones() -> None:
    layers: dict[str, Any] = {"user": {"resources": {"vcpus": 8}}}
    assert load(**layers).config.resources.vcpus == 8
    layers["project"] = {"resources": {"vcpus": 4}}
    assert load(**layers).config.resources.vcpus == 4
    layers["environ"] = {"AGENTKERNEL_RESOURCES_VCPUS": "6", "PATH": "/bin", "AGENTKERNEL_HOME": "/x"}
    assert load(**layers).config.resources.vcpus == 6
    layers["flags"] = {"resources.vcpus": 2}
    assert load(**layers).config.resources.vcpus == 2
    assert load(**layers).warnings == ()


@pytest.mark.parametrize(
    ("table", "hint"),
    [
        ({"resources": {"memory": 1}}, "Did you mean resources.memory_mb?"),
        ({"resource": {"vcpus": 1}}, "Did you mean resources.vcpus?"),
        ({"zzz": {}}, "lists all keys"),
        ({"memory_mb": 1}, "Did you mean resources.memory_mb?"),
        ({"zzz": 1}, "lists all keys"),
        ({"security": {"domains": {"alow": []}}}, "Did you mean security.domains.allow?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_known(table: dict[str, Any], hint: str) -> None:
    with pytest.raises(Refused, match=r"config\.toml: unknown key") as caught:
        load(user=table)
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("path", "value", "rule"),
    [
        ("resources.vcpus", "two", "whole number"),
        ("resources.vcpus", True, "whole number"),
        ("resources.vcpus", 0, "between 1 and 64"),
        ("security.share_template_memory", 1, "boolean"),
        ("security.profile", "lax", "restrictive moderate permissive"),
        ("sandbox.runtime", "../x", "it matches"),
        ("sandbox.image", "a\0", "NUL"),
        ("sandbox.image", "--privileged", "it matches"),
        ("pool.prewarm_backend", "xen", "firecracker docker podman"),
        ("pool.prewarm", "native", "list of strings"),
        ("pool.prewarm", [1], "list of strings"),
        ("pool.prewarm", ["vim"], "native claude codex gemini"),
        ("agent.preferred", "vim", '""'),
        ("sandbox", "x", "unknown"),
    ],
)
def test_an_ill_formed_value_is_refused_with_the_rule(path: str, value: Any, rule: str) -> None:
    section, _, name = path.rpartition(".")
    with pytest.raises(Refused) as caught:
        load(user={section: {name: value}} if section else {name: value})
    assert path in caught.value.message
    assert rule in caught.value.hint + caught.value.message


def test_an_empty_section_says_nothing() -> None:
    assert load(user={"security": {"domains": {}}, "pool": {}}).config == Config()


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(Refused, match="flag: unknown key"):
        load(flags={"resources.vcpu": 1})


@pytest.mark.parametrize(
    ("project", "path"),
    [
        ({"sandbox": {"name": "mine", "runtime": "node"}}, "sandbox.name"),
        ({"resources": {"memory_mb": 256}}, "resources.memory_mb"),
        ({"resources": {"memory_mb": 512}}, "resources.memory_mb"),
        ({"security": {"profile": "restrictive"}}, "security.profile"),
        ({"security": {"profile": "moderate"}}, "security.profile"),
        ({"security": {"minimum_isolation": "vm"}}, "security.minimum_isolation"),
        ({"security": {"share_template_memory": False}}, "security.share_template_memory"),
        ({"security": {"domains": {"allow": ["a.org"]}}}, "security.domains.allow"),
    ],
)
def test_a_project_may_choose_and_tighten(project: dict[str, Any], path: str) -> None:
    user = {"security": {"domains": {"allow": ["a.org", "b.org"]}}}
    assert load(user=user, project=project).config
    assert KEYS[path].rule.project is not Project.NEVER


@pytest.mark.parametrize(
    ("project", "path"),
    [
        ({"resources": {"memory_mb": 1024}}, "resources.memory_mb"),
        ({"security": {"profile": "permissive"}}, "security.profile"),
        ({"security": {"network": "open"}}, "security.network"),
        ({"security": {"minimum_isolation": ""}}, "security.minimum_isolation"),
        ({"security": {"minimum_isolation": "container"}}, "security.minimum_isolation"),
        ({"security": {"share_template_memory": True}}, "security.share_template_memory"),
        ({"security": {"domains": {"allow": ["a.org"]}}}, "security.domains.allow"),
        ({"agent": {"preferred": "claude"}}, "agent.preferred"),
        ({"microvm": {"vmm": "qemu"}}, "microvm.vmm"),
        ({"daemon": {"socket": "/tmp/x"}}, "daemon.socket"),
        ({"pool": {"max_sandboxes": 1}}, "pool.max_sandboxes"),
    ],
)
def test_a_project_may_loosen_nothing_and_is_told_which_key(project: dict[str, Any], path: str) -> None:
    user = {"security": {"minimum_isolation": "vm-emulated", "share_template_memory": False}}
    with pytest.raises(Denied, match=rf"agentkernel\.toml: .*{path}"):
        load(user=user, project=project)


def test_a_projects_blocked_hosts_are_added_to_the_users() -> None:
    found = load(
        user={"security": {"domains": {"block": ["a.org"]}}},
        project={"security": {"domains": {"block": ["b.org", "a.org"]}}},
    ).config
    assert found.security.domains.block == ("a.org", "b.org")


def test_keys_of_the_original_program_are_named_in_warnings_and_do_nothing() -> None:
    found = load(
        user={
            "sandbox": {"base_image": "python:3"},
            "build": {"dockerfile": "Dockerfile"},
            "files": [{"source": "a"}],
            "network": {"vsock_cid": 3},
            "security": {
                "network": True,
                "mount_cwd": True,
                "commands": {"allow": []},
                "domains": {"allowlist_only": True},
            },
        }
    )
    assert found.config == Config()
    assert [warning.split()[1] for warning in found.warnings] == [
        "sandbox.base_image",
        "build",
        "files",
        "network",
        "security.network",
        "security.mount_cwd",
        "security.commands",
        "security.domains.allowlist_only",
    ]


def test_the_environment_speaks_every_type() -> None:
    found = load(
        environ={
            "AGENTKERNEL_SOCKET": "/run/x.sock",
            "AGENTKERNEL_POOL_PREWARM": "claude, codex",
            "AGENTKERNEL_SECURITY_SHARE_TEMPLATE_MEMORY": "0",
            "AGENTKERNEL_POOL_MIN_WARM": "0",
        }
    ).config
    assert found.daemon.socket == "/run/x.sock"
    assert found.pool.prewarm == ("claude", "codex")
    assert found.security.share_template_memory is False
    assert found.pool.min_warm == 0


@pytest.mark.parametrize(("name", "text"), [("POOL_MAX_AGE_S", "5m"), ("SECURITY_SHARE_TEMPLATE_MEMORY", "maybe")])
def test_an_ill_formed_variable_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(Refused, match=f"AGENTKERNEL_{name}"):
        load(environ={f"AGENTKERNEL_{name}": text})


def test_an_unknown_variable_is_warned_of_with_the_nearest() -> None:
    near, far = load(environ={"AGENTKERNEL_POOL_MAXAGE_S": "1", "AGENTKERNEL_Q": "1"}).warnings
    assert "did you mean AGENTKERNEL_POOL_MAX_AGE_S?" in near
    assert far == "AGENTKERNEL_Q is not known and does nothing."


def test_a_key_without_effect_is_said_to_have_none_where_it_is_set() -> None:
    loaded = load(user={"agent": {"compatibility_mode": "claude"}, "pool": {"idle_pause_s": 20}})
    assert len(loaded.warnings) == 1
    assert loaded.warnings[0].startswith("agent.compatibility_mode has no effect")


def test_a_socket_is_moved_by_its_variable_and_not_by_a_file() -> None:
    assert load(environ={"AGENTKERNEL_SOCKET": "/run/x.sock"}).warnings == ()
    assert "daemon.socket has no effect" in load(user={"daemon": {"socket": "/run/x.sock"}}).warnings[0]


def test_the_backend_that_a_user_runs_with_is_kept_warm_unless_a_layer_says_otherwise() -> None:
    def warm(environ: dict[str, str], **layers: Any) -> str:
        return load(environ=environ, **layers).config.pool.prewarm_backend

    assert warm({}) == "firecracker"
    assert warm({"AGENTKERNEL_BACKEND": "docker"}) == "docker"
    assert warm({"AGENTKERNEL_BACKEND": "microvm"}) == "firecracker"
    assert warm({"AGENTKERNEL_BACKEND": "nonsense"}) == "firecracker", "`run` says so, not the daemon"
    assert warm({"AGENTKERNEL_BACKEND": "docker"}, user={"pool": {"prewarm_backend": "gvisor"}}) == "gvisor"
    assert warm({"AGENTKERNEL_BACKEND": "docker", "AGENTKERNEL_POOL_PREWARM_BACKEND": "podman"}) == "podman"
