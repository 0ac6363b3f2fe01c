"""What containers are made from: the agent's own image and volume, our runtimes, images of others."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import anyio

from agentkernel.drivers.contract import Artifacts, Tell
from agentkernel.drivers.docker.api import EngineApi, EngineRefused, as_ours
from agentkernel.drivers.docker.container import AGENT_PLACE
from agentkernel.model.errors import Broken, Busy, NotFound, Refused
from agentkernel.model.ids import Digest
from agentkernel.model.spec import ImageFacts

AGENT_LABEL = "agentkernel.agent"
IMAGE_LABEL = "agentkernel.image"
RUNTIME_LABEL = "agentkernel.runtime"
REPOSITORY = "localhost/agentkernel"
IMPORT_S = 600.0
PULL_S = 1800.0
BLOCK = 512
FORMAT = 1
"""Of what is imported: part of an image's label, so that one that an older version of this file made is not taken."""
MACHINE_ID = "/run/agentkernel/machine-id"
"""Where the agent of a container writes it: `/etc` cannot be written."""


@dataclass(frozen=True, slots=True)
class Found:
    """An image on the engine.

    Attributes:
        volumes: paths that it wants volumes at.
    """

    id: str
    volumes: tuple[str, ...] = ()


class EngineImages:
    """The images of one engine.

    Args:
        machine: of the engine, as `uname -m` calls it.
    """

    def __init__(self, api: EngineApi, artifacts: Artifacts, machine: str, architecture: str) -> None:
        self._api = api
        self._artifacts = artifacts
        self._machine = machine
        self._architecture = architecture
        self._importing = anyio.Lock()
        self._known: dict[Digest, Found] = {}
        self._agent: tuple[Found, str] | None = None
        self.volume_filled = False
        """Whether a container of the agent's own image has begun, which is when an engine fills the volume."""

    async def agent(self) -> tuple[Found, str]:
        """The image that holds nothing but the agent, and the name of the volume that every container gets it from.

        The volume is filled by the engine, from that image, when the first container of it is made.
        """
        async with self._importing:
            if self._agent is None:
                content = await anyio.Path(self._artifacts.agent(self._machine)).read_bytes()
                digest = hashlib.sha256(content).hexdigest()
                labels = {AGENT_LABEL: digest}
                image = await self._labelled(AGENT_LABEL, digest)
                if image is None:
                    image = await self._import("agent", digest, labels, _once(agent_archive(content)))
                volume = f"agentkernel-agent-{digest[:16]}"
                await self._api.call("POST", "/volumes/create", body={"Name": volume, "Labels": labels})
                self._agent = Found(image), volume
            return self._agent

    async def runtime(self, name: str, image: Digest) -> Found:
        """A runtime of ours, imported when the engine does not have it. One import at a time."""
        if found := self._known.get(image):
            return found
        async with self._importing:
            if found := self._known.get(image):
                return found
            identity = await self._labelled(IMAGE_LABEL, _mark(image))
            if identity is None:
                labels = {IMAGE_LABEL: _mark(image), RUNTIME_LABEL: name}
                async with self._artifacts.archive(image) as chunks:
                    identity = await self._import(name, image, labels, with_machine_id(chunks))
                await self._remove_older(name, image)
            self._known[image] = found = Found(identity)
            return found

    def forget(self) -> None:
        """Look again: the engine does not have what it had."""
        self._known.clear()
        self._agent, self.volume_filled = None, False

    async def foreign(self, image: Digest) -> Found:
        """An image by name that `find` has found."""
        if found := self._known.get(image):
            return found
        config = await self._inspect(f"sha256:{image}")
        if config is None:
            raise NotFound(f"the image {image[:12]} is not there any more", hint="ask for it by name again")
        volumes = (config.get("Config") or {}).get("Volumes") or {}
        self._known[image] = found = Found(f"sha256:{image}", tuple(volumes))
        return found

    async def find(self, name: str, tell: Tell) -> ImageFacts:
        """As `Driver.image`."""
        if not name or name.startswith("-") or any(letter.isspace() for letter in name):
            raise Refused(f"{name!r} is no name of an image", hint="NAME, NAME:TAG or NAME@sha256:DIGEST")
        config = await self._inspect(name)
        if config is None:
            await tell(f"pull {name}")
            await self._pull(name, tell)
            config = await self._inspect(name)
        if config is None:
            raise NotFound(f"there is no image {name}", hint="docker images, or podman images, lists what is there")
        return facts_of(name, config, self._architecture)

    async def _inspect(self, name: str) -> dict[str, Any] | None:
        try:
            found = await self._api.call("GET", f"/images/{name}/json")
        except EngineRefused as err:
            if err.status == 404:
                return None
            raise as_ours(err, f"the image {name}") from err
        return found if isinstance(found, dict) else None

    async def _pull(self, name: str, tell: Tell) -> None:
        repository, _, digest = name.partition("@")
        tag = ""
        if not digest and ":" in repository.rpartition("/")[2]:
            repository, _, tag = repository.rpartition(":")
        query = {"fromImage": repository, "tag": digest or tag or "latest"}
        said = ""
        try:
            async with self._api.streamed("POST", "/images/create", query=query, deadline_s=PULL_S) as answer:
                async for line in answer.aiter_lines():
                    step = _json_line(line)
                    if error := step.get("error") or (step.get("errorDetail") or {}).get("message"):
                        raise pull_failed(name, str(error))
                    status = " ".join(filter(None, (str(step.get("id") or ""), str(step.get("status") or ""))))
                    if status and status != said:
                        said = status
                        await tell(f"pull {name}: {status[:120]}")
        except EngineRefused as err:
            raise pull_failed(name, err.message, err.status) from err

    async def _labelled(self, label: str, value: str) -> str | None:
        filters = json.dumps({"label": [f"{label}={value}"]})
        found = await self._api.call("GET", "/images/json", query={"filters": filters})
        return str(found[0]["Id"]) if isinstance(found, list) and found else None

    async def _import(self, name: str, digest: str, labels: Mapping[str, str], tar: AsyncIterator[bytes]) -> str:
        tag = {"repo": f"{REPOSITORY}/{name}", "tag": digest[:16]}
        changes = [f'LABEL {label}="{value}"' for label, value in labels.items()]
        query: dict[str, str | list[str]] = {"fromSrc": "-", **tag, "changes": changes}
        try:
            async with self._api.streamed(
                "POST",
                "/images/create",
                query=query,
                content=tar,
                headers={"Content-Type": "application/x-tar"},
                deadline_s=IMPORT_S,
            ) as answer:
                steps = [_json_line(line) async for line in answer.aiter_lines()]
        except EngineRefused as err:
            raise as_ours(err, f"the image {name} could not be imported") from err
        failures = [str(step["error"]) for step in steps if step.get("error")]
        identity = next((str(step["status"]) for step in reversed(steps) if "sha256:" in str(step.get("status"))), "")
        if failures or not identity:
            raise Broken(f"the image {name} could not be imported: {'; '.join(failures) or 'no answer'}")
        # Not every engine takes the tag of an import.
        await self._api.call("POST", f"/images/{identity}/tag", query=tag)
        return identity

    async def _remove_older(self, name: str, image: Digest) -> None:
        """Images of that runtime that nobody uses any more."""
        for older in await self._ours(RUNTIME_LABEL, name):
            if older["Labels"].get(IMAGE_LABEL) != _mark(image):
                await self._removed(older)

    async def clear(self, keep: Collection[Digest] | None) -> list[str]:
        """As `Driver.clear`: images of runtimes, and the agent's image and volume, of all versions of ours."""
        agent = ""
        if keep is not None:
            content = await anyio.Path(self._artifacts.agent(self._machine)).read_bytes()
            agent = hashlib.sha256(content).hexdigest()
        marks = {_mark(image) for image in keep or ()}
        runtimes = [each for each in await self._ours(IMAGE_LABEL) if each["Labels"][IMAGE_LABEL] not in marks]
        agents = [each for each in await self._ours(AGENT_LABEL) if each["Labels"][AGENT_LABEL] != agent]
        gone = [f"image {_called(each)}" for each in [*runtimes, *agents] if await self._removed(each)]
        filters = json.dumps({"label": [AGENT_LABEL]})
        for volume in (await self._api.call("GET", "/volumes", query={"filters": filters}))["Volumes"] or []:
            if (volume["Labels"] or {}).get(AGENT_LABEL) != agent and await self._deleted(f"/volumes/{volume['Name']}"):
                gone.append(f"volume {volume['Name']}")
        self.forget()
        return gone

    async def _ours(self, label: str, value: str = "") -> list[dict[str, Any]]:
        """Images with that label."""
        filters = json.dumps({"label": [f"{label}={value}" if value else label]})
        found = await self._api.call("GET", "/images/json", query={"filters": filters}) or []
        return [each for each in found if label in (each.get("Labels") or {})]

    async def _removed(self, image: Mapping[str, Any]) -> bool:
        references = [tag for tag in image.get("RepoTags") or () if not tag.startswith("<none>")] or [str(image["Id"])]
        return all([await self._deleted(f"/images/{reference}") for reference in references])

    async def _deleted(self, path: str) -> bool:
        """Whether it went; something that a container uses does not."""
        try:
            await self._api.call("DELETE", path)
        except EngineRefused as err:
            return err.status == 404
        return True


def _called(image: Mapping[str, Any]) -> str:
    tags = image.get("RepoTags") or ()
    return str(tags[0] if tags else image["Id"])


def facts_of(name: str, image: Mapping[str, object], architecture: str) -> ImageFacts:
    """What an image's configuration says. Raises Refused for one of another architecture."""
    its = str(image.get("Architecture") or architecture)
    if its != architecture:
        raise Refused(
            f"the image {name} is for {its}, and the engine's processor is {architecture}",
            hint=f"name an image that is there for {architecture}",
        )
    found = image.get("Config")
    config: Mapping[str, object] = found if isinstance(found, dict) else {}

    def words(key: str) -> tuple[str, ...]:
        value = config.get(key)
        return tuple(str(word) for word in value) if isinstance(value, list) else ()

    return ImageFacts(
        digest=Digest(str(image["Id"]).removeprefix("sha256:")),
        env=dict(word.split("=", 1) for word in words("Env") if "=" in word),
        cwd=str(config.get("WorkingDir") or ""),
        user=str(config.get("User") or ""),
        entrypoint=words("Entrypoint"),
        command=words("Cmd"),
    )


UNREACHABLE = (
    *("timeout", "dial tcp", "no such host", "connection refused", "tls handshake", "eof", "temporary failure"),
    *("network is unreachable", "server misbehaving", "pinging container registry"),
)
OTHER_PROCESSOR = ("no matching manifest", "no image found in manifest list", "no image found in image index")
MISSING = (
    *("not found", "does not exist", "manifest unknown", "denied", "unauthorized", "no such image"),
    *("repository name", "short-name", "unknown:", "no basic auth"),
)


def pull_failed(name: str, message: str, status: int = 0) -> Exception:
    """What an engine says of a pull that failed, by its words: engines agree on no status."""
    words = message.lower()
    said = f"the image {name} could not be pulled: {message}"
    if any(sign in words for sign in UNREACHABLE):
        return Busy(said, hint="is its registry reachable from the engine?")
    if any(sign in words for sign in OTHER_PROCESSOR):
        return Refused(f"the image {name} is not there for this engine's processor: {message}")
    if status == 404 or any(sign in words for sign in MISSING):
        return NotFound(f"there is no image {name}: {message}", hint="is it spelled right, and are you logged in?")
    return Broken(said)


def agent_archive(agent: bytes) -> bytes:
    """A tar stream with the agent at its place."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        folder = tarfile.TarInfo(AGENT_PLACE.strip("/"))
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
        member = tarfile.TarInfo(f"{AGENT_PLACE.strip('/')}/agent")
        member.mode, member.size = 0o755, len(agent)
        archive.addfile(member, io.BytesIO(agent))
    return stream.getvalue()


async def with_machine_id(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same tar stream, with the empty `/etc/machine-id` a link to where the agent of a container can write it."""
    skip, buffer = 0, b""
    async for chunk in chunks:
        buffer += chunk
        ready: list[bytes] = []
        at = 0
        while at < len(buffer):
            if skip:
                step = min(skip, len(buffer) - at)
                ready.append(buffer[at : at + step])
                at, skip = at + step, skip - step
                continue
            head = buffer[at : at + BLOCK]
            if len(head) < BLOCK:
                break
            at += BLOCK
            if any(head):
                member = tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
                skip = -(-member.size // BLOCK) * BLOCK
                if member.name.removeprefix("./") == "etc/machine-id" and not member.size:
                    head = _link(member)
            ready.append(head)
        buffer = buffer[at:]
        yield b"".join(ready)


def _mark(image: Digest) -> str:
    return f"{image}.{FORMAT}"


def _link(member: tarfile.TarInfo) -> bytes:
    member.type, member.linkname, member.mode = tarfile.SYMTYPE, MACHINE_ID, 0o777
    return member.tobuf(tarfile.USTAR_FORMAT)


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _json_line(line: str) -> dict[str, Any]:
    try:
        step = json.loads(line)
    except ValueError:
        return {}
    return step if isinstance(step, dict) else {}
