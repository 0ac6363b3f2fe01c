"""From files, environment and flags to one Config: defaults, the user's file, the project's file, `AGENTKERNEL_*`,
flags, in that order.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

from agentkernel.model.errors import Denied, Refused
from agentkernel.policy.config import KEYS, Config, Key, Project, Rule

ENVIRONMENT_PREFIX = "AGENTKERNEL_"
ENVIRONMENT_ALIASES = {"AGENTKERNEL_SOCKET": "daemon.socket"}
NOT_CONFIGURATION = frozenset(
    {
        *("AGENTKERNEL_HOME", "AGENTKERNEL_DATA", "AGENTKERNEL_MIRROR", "AGENTKERNEL_KERNEL", "AGENTKERNEL_PYTHON"),
        "AGENTKERNEL_BACKEND",
    }
)
"""Names with our prefix that other parts read."""
PREWARM_BACKEND = "pool.prewarm_backend"

ORIGINAL = (
    "sandbox.base_image",
    "network",
    "security.mount_cwd",
    "security.mount_home",
    "security.pass_env",
    "security.commands",
    "security.seccomp",
    "security.domains.allowlist_only",
    "build",
    "files",
    "orchestrator",
    "enterprise",
)
"""Keys and sections of the original program's file that mean nothing here. `security.network` was a boolean there."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Loaded:
    """The configuration, and what its authors should know."""

    config: Config
    warnings: tuple[str, ...] = ()


def load(
    *,
    user: Mapping[str, Any] | None = None,
    project: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
    user_file: str = "config.toml",
    project_file: str = "agentkernel.toml",
) -> Loaded:
    """Apply all layers.

    Args:
        user, project: parsed TOML.
        environ: the process environment; only names with our prefix are looked at.
        flags: `section.key` to a value of its TOML type.
        user_file, project_file: how messages name the files.

    Raises:
        Refused: an unknown key (with the nearest known), or a value that is not well formed.
        Denied: a project's file that would loosen something, or set what is not its business.
    """
    values = {path: known.default for path, known in KEYS.items()} | _wanted_backend(environ or {})
    warnings: list[str] = []
    values |= _from_file(user or {}, user_file, warnings)
    for path, value in _from_file(project or {}, project_file, warnings).items():
        values[path] = _tightened(KEYS[path], values[path], value, project_file)
    values |= _from_environment(environ or {}, warnings)
    for path, value in (flags or {}).items():
        values[path] = checked(path, value, "flag")
    warnings += _without_effect(values, environ or {})
    return Loaded(_built(values), tuple(warnings))


def _wanted_backend(environ: Mapping[str, str]) -> dict[str, Any]:
    """What this user's `run` asks for is what to keep warm, unless a layer says otherwise."""
    word = environ.get("AGENTKERNEL_BACKEND", "")
    word = "firecracker" if word == "microvm" else word
    return {PREWARM_BACKEND: word} if word in KEYS[PREWARM_BACKEND].rule.choices else {}


def _without_effect(values: Mapping[str, Any], environ: Mapping[str, str]) -> Iterator[str]:
    """One line for each key that was set and does nothing yet; AGENTKERNEL_SOCKET itself is obeyed by whoever reads
    the environment.
    """
    obeyed = {path for name, path in ENVIRONMENT_ALIASES.items() if environ.get(name) == values[path]}
    for path, known in KEYS.items():
        if not known.rule.effective and values[path] != known.default and path not in obeyed:
            yield f"{path} has no effect in this version; docs/reference/configuration.md says what has."


def checked(path: str, value: Any, source: str) -> Any:
    """A well-formed value of a known key, lists as tuples. Raises Refused and names source, key and what is allowed."""
    if path not in KEYS:
        raise _unknown(path, source)
    rule = KEYS[path].rule
    if type(value) is not rule.kind:
        raise _ill(source, path, value, f"it is a {_NAMES[rule.kind]}")
    texts = value if isinstance(value, list) else [value]
    if isinstance(value, int) and rule.kind is int and not rule.low <= value <= rule.high:
        raise _ill(source, path, value, f"it is between {rule.low} and {rule.high}")
    for text in texts if rule.kind in {str, list} else ():
        _check_text(rule, source, path, text)
    return tuple(value) if isinstance(value, list) else value


_NAMES = {int: "whole number", str: "string", bool: "boolean (true or false)", list: "list of strings"}


def _check_text(rule: Rule, source: str, path: str, text: Any) -> None:
    if not isinstance(text, str) or "\0" in text:
        raise _ill(source, path, text, "it is a list of strings" if rule.kind is list else "it holds no NUL")
    if rule.choices and text not in rule.choices:
        raise _ill(source, path, text, "one of: " + " ".join(choice or '""' for choice in rule.choices))
    if text and rule.pattern and re.fullmatch(rule.pattern, text) is None:
        raise _ill(source, path, text, f"it matches {rule.pattern}")


def _from_file(table: Mapping[str, Any], source: str, warnings: list[str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for path, value in _flattened(table, ""):
        original = next((name for name in ORIGINAL if path == name or path.startswith(f"{name}.")), None)
        if original or (path == "security.network" and isinstance(value, bool)):
            warnings.append(f"{source}: {path} is a key of the original program and does nothing here; remove it.")
        else:
            values[path] = checked(path, value, source)
    return values


def _flattened(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and path not in KEYS and path not in ORIGINAL:
            yield from _flattened(value, f"{path}.")
        elif value == {} and any(known.startswith(f"{path}.") for known in KEYS):
            continue  # an empty section says nothing
        else:
            yield path, value


def _from_environment(environ: Mapping[str, str], warnings: list[str]) -> dict[str, Any]:
    known = {f"{ENVIRONMENT_PREFIX}{path.upper().replace('.', '_')}": path for path in KEYS} | ENVIRONMENT_ALIASES
    values: dict[str, Any] = {}
    for name, text in environ.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or name in NOT_CONFIGURATION:
            continue
        if name in known:
            path = known[name]
            values[path] = checked(path, _parsed(KEYS[path].rule, text), name)
        else:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.8)
            warnings.append(f"{name} is not known and does nothing{f'; did you mean {near[0]}?' if near else '.'}")
    return values


def _parsed(rule: Rule, text: str) -> Any:
    """The text of an environment variable as the key's type; as it is when it has not that form, for `checked` to
    refuse.
    """
    if rule.kind is int and re.fullmatch(r"-?[0-9]{1,18}", text):
        return int(text)
    if rule.kind is bool and text.lower() in {"true", "false", "1", "0"}:
        return text.lower() in {"true", "1"}
    return [part for part in re.split(r"[,\s]+", text) if part] if rule.kind is list else text


def _tightened(known: Key, old: Any, new: Any, source: str) -> Any:
    """What a project's file makes of a value; the same value again is always fine."""
    match known.rule.project:
        case Project.FREELY:
            return new
        case Project.SMALLER if new <= old:
            return new
        case Project.STRICTER if _is_stricter(known, old, new):
            return tuple(dict.fromkeys((*old, *new))) if known.path == "security.domains.block" else new
        case Project.NEVER:
            raise Denied(
                f"{source}: a project may not set {known.path}", hint="Set it in your own config.toml, or by a flag."
            )
        case limit:
            raise Denied(
                f"{source}: {known.path} = {new!r} would loosen {old!r}; a project may make it {limit.value}",
                hint="Set it in your own config.toml, or by a flag.",
            )


def _is_stricter(known: Key, old: Any, new: Any) -> bool:
    if known.path == "security.domains.block":
        return True
    if known.path == "security.domains.allow":
        return set(new) <= set(old)
    if known.rule.kind is bool:
        return old or not new
    return known.rule.choices.index(new) <= known.rule.choices.index(old)


def _built(values: Mapping[str, Any]) -> Config:
    return _section(Config(), "", values)


def _section(section: T, prefix: str, values: Mapping[str, Any]) -> T:
    changes: dict[str, Any] = {}
    for item in fields(section):  # type: ignore[arg-type]
        value = getattr(section, item.name)
        path = f"{prefix}{item.name}"
        changes[item.name] = _section(value, f"{path}.", values) if is_dataclass(value) else values[path]
    return replace(section, **changes)  # type: ignore[type-var]


def _unknown(path: str, source: str) -> Refused:
    near = difflib.get_close_matches(path, KEYS, n=1) or [
        known for known in KEYS if known.rpartition(".")[2] == path.rpartition(".")[2]
    ]
    hint = f"Did you mean {near[0]}?" if near else "docs/reference/configuration.md lists all keys."
    return Refused(f"{source}: unknown key {path}", hint=hint)


def _ill(source: str, path: str, value: Any, rule: str) -> Refused:
    return Refused(f"{source}: {path} = {str(value)[:64]!r} is not allowed", hint=f"For {path}: {rule}.")
