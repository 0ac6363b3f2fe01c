"""Pull from a registry: documents and blobs, each verified by its digest.

Source: the OCI distribution specification 1.1, and the token authentication that registries share.
"""

from __future__ import annotations

import hashlib
import ssl
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

import anyio
import httpx

from agentkernel.images.oci import credentials, documents
from agentkernel.images.oci.documents import Descriptor, ImageConfig, Manifest
from agentkernel.images.oci.reference import Remote
from agentkernel.model.errors import Busy, Denied, NotFound, Refused

TRIES = 4
PAUSE_S = 0.3
"""Before the second try; doubled before each further one."""
REDIRECTS_MOST = 5
TIMEOUT = httpx.Timeout(30.0, connect=10.0)
_TOKEN_BYTES_MOST = 1 << 20
_NESTED_MOST = 3
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """What was found. `digest` names its content."""

    digest: str
    config: ImageConfig
    layers: tuple[Descriptor, ...]


class _Again(Exception):
    """It did not work, and may the next time."""


@dataclass(slots=True)
class Registry:
    """One repository, for the length of `opened`."""

    remote: Remote
    environ: Mapping[str, str]
    client: httpx.AsyncClient
    _authorization: str = field(default="", init=False)

    async def image(self, machine: str) -> RemoteImage:
        """Find the image for this machine.

        Raises:
            NotFound: the registry has no such image.
            Refused: it is for other machines, malformed, or not what its digest says.
            Denied: the registry wants credentials, or others.
            Busy: the registry does not answer.
        """
        wanted = self.remote.wanted
        for _ in range(_NESTED_MOST):
            content = await self._document(f"manifests/{wanted}", documents.MANIFEST_BYTES_MOST, wanted)
            found = documents.manifest_or_index(content)
            if isinstance(found, Manifest):
                raw = await self._document(
                    f"blobs/{found.config.digest}", documents.CONFIG_BYTES_MOST, found.config.digest
                )
                config = documents.image_config(raw, machine)
                documents.check_layers(found, config)
                return RemoteImage(documents.digest_of_bytes(content), config, found.layers)
            wanted = documents.choose(found, machine).digest
        raise Refused(f"{self.remote} has an index within an index within an index", hint="it is damaged or hostile")

    async def download(self, layer: Descriptor, file: BinaryIO, tell: Callable[[int], None]) -> None:
        """Write a layer to an empty file; what breaks off is resumed where the registry can, else begun anew.

        Raises:
            As `image`.
        """
        state = _Download(file, layer, tell)

        async def attempt() -> None:
            headers = {"Range": f"bytes={state.count}-"} if state.count else {}
            async with self._asked(f"blobs/{layer.digest}", headers) as response:
                if response.status_code != httpx.codes.PARTIAL_CONTENT or not _resumes(response, state.count):
                    state.restart()
                async for piece in response.aiter_raw():
                    state.add(piece)
            if state.count < layer.size:
                raise _Again("the transfer broke off")

        await self._tried(attempt)
        state.check()

    async def _document(self, path: str, most: int, wanted: str) -> bytes:
        async def attempt() -> bytes:
            accept = ", ".join((*documents.INDEXES, *documents.MANIFESTS, "*/*;q=0.1"))
            async with self._asked(path, {"Accept": accept}) as response:
                return await _body(response, most)

        content = await self._tried(attempt)
        digest = documents.digest_of_bytes(content)
        if wanted.startswith("sha256:") and digest != wanted:
            raise Refused(
                f"{self.remote.registry} sent {digest} for {wanted}", hint="it, or something on the way, is damaged"
            )
        return content

    async def _tried(self, attempt: Callable[[], Awaitable[_Result]]) -> _Result:
        """The attempt's result, of the first that works."""
        pause_s, last = PAUSE_S, ""
        for number in range(TRIES):
            if number:
                await anyio.sleep(pause_s)
                pause_s *= 2
            try:
                return await attempt()
            except (_Again, httpx.TransportError) as error:
                last = str(error) or type(error).__name__
        raise Busy(
            f"the registry {self.remote.registry} does not answer: {last[:200]}",
            hint="check the network, the proxy and the registry's name, then try again",
        )

    @asynccontextmanager
    async def _asked(self, path: str, headers: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """A good answer. Credentials are for the registry alone: where it redirects to, they are not sent."""
        scheme = "http" if self.remote.is_loopback else "https"
        home = httpx.URL(f"{scheme}://{self.remote.registry}/v2/{self.remote.repository}/{path}")
        url, challenged, redirects = home, False, 0
        while True:
            ours = (url.scheme, url.host, url.port) == (home.scheme, home.host, home.port)
            own = {"Authorization": self._authorization} if ours and self._authorization else {}
            request = self.client.build_request("GET", url, headers={"Accept-Encoding": "identity", **headers, **own})
            response = await self.client.send(request, stream=True)
            try:
                if response.status_code == httpx.codes.UNAUTHORIZED and ours and not challenged:
                    self._authorization = await self._authorized(response.headers.get("www-authenticate", ""))
                    challenged = True
                    continue
                if response.is_redirect and response.has_redirect_location:
                    redirects += 1
                    url = self._redirected(url, response.headers["location"], redirects)
                    continue
                self._check(response.status_code)
                yield response
                return
            finally:
                await response.aclose()

    def _redirected(self, url: httpx.URL, location: str, count: int) -> httpx.URL:
        to = url.join(location)
        if count > REDIRECTS_MOST:
            raise Refused(f"{self.remote.registry} redirects in circles", hint="look at the registry's configuration")
        self._require_protected(to, "redirects")
        return to

    def _require_protected(self, url: httpx.URL, what: str) -> None:
        """By TLS, or because it does not leave this host."""
        if url.scheme != "https" and not (self.remote.is_loopback and url.scheme == "http" and _is_loopback(url)):
            raise Refused(
                f"{self.remote.registry} {what} to {url.scheme}://{url.host}, which is not protected",
                hint="look at the registry's configuration",
            )

    def _check(self, status: int) -> None:
        """Raises for a bad answer."""
        name = f"{self.remote.registry}/{self.remote.repository}"
        if status in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            return
        if status == httpx.codes.NOT_FOUND:
            raise NotFound(f"{name} has no {self.remote.wanted}", hint="look at the image's name and tag")
        if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            raise self._denied()
        if status in (httpx.codes.TOO_MANY_REQUESTS, httpx.codes.REQUEST_TIMEOUT) or status >= 500:
            raise _Again(f"it answers with status {status}")
        raise Refused(f"{name} answers with status {status}", hint="is that a registry?")

    def _denied(self) -> Denied:
        helper = credentials.look_up(self.remote.registry, self.remote.repository, self.environ).helper
        hint = "log in to it with docker, podman or skopeo, which keep the password in a file that is read here"
        if helper:
            hint = f"the password is with docker-credential-{helper}, which is not asked; keep it in a file instead"
        return Denied(
            f"{self.remote.registry} does not let us have {self.remote.repository} (or has it not)", hint=hint
        )

    # --- who we are ---

    async def _authorized(self, header: str) -> str:
        """The `Authorization` that a challenge asks for; empty when it asks for what we have not."""
        ours = credentials.look_up(self.remote.registry, self.remote.repository, self.environ)
        for challenge in credentials.challenges(header):
            if challenge.scheme == "bearer":
                return await self._token(challenge.parameters, ours)
            if ours.basic:
                return ours.basic
        return ""

    async def _token(self, said: Mapping[str, str], ours: credentials.Credentials) -> str:
        realm = httpx.URL(said.get("realm", ""))
        self._require_protected(realm, "wants credentials sent")
        scope = said.get("scope") or f"repository:{self.remote.repository}:pull"
        fields = {"service": said.get("service", ""), "scope": scope}
        if ours.identity_token:
            fields |= {"grant_type": "refresh_token", "refresh_token": ours.identity_token, "client_id": "agentkernel"}
            request = self.client.build_request("POST", realm, data=fields)
        else:
            headers = {"Authorization": ours.basic} if ours.basic else {}
            request = self.client.build_request("GET", realm.copy_merge_params(fields), headers=headers)
        response = await self.client.send(request, stream=True)
        try:
            if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise self._denied()
            self._check(response.status_code)
            answer = documents.token_of(await _body(response, _TOKEN_BYTES_MOST))
        finally:
            await response.aclose()
        return f"Bearer {answer}"


class _Download:
    """How far a layer has come."""

    def __init__(self, file: BinaryIO, layer: Descriptor, tell: Callable[[int], None]) -> None:
        self._file = file
        self._layer = layer
        self._tell = tell
        self._hash = hashlib.sha256()
        self.count = 0

    def restart(self) -> None:
        """From nothing."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self, piece: bytes) -> None:
        """Raises Refused when it is more than was said."""
        self.count += len(piece)
        if self.count > self._layer.size:
            raise Refused(
                f"the layer {self._layer.digest} is larger than its manifest says", hint="it is damaged or hostile"
            )
        self._hash.update(piece)
        self._file.write(piece)
        self._tell(self.count)

    def check(self) -> None:
        """Raises Refused when it is not what its digest says."""
        if f"sha256:{self._hash.hexdigest()}" != self._layer.digest:
            raise Refused(
                f"the registry sent something else than {self._layer.digest}",
                hint="it, or something on the way, is damaged",
            )


@asynccontextmanager
async def opened(remote: Remote, environ: Mapping[str, str]) -> AsyncIterator[Registry]:
    """A repository to pull from. TLS is verified by the system's authorities (SSL_CERT_FILE names others); proxies are
    the environment's, but for this host itself."""
    async with httpx.AsyncClient(
        verify=True if remote.is_loopback else ssl.create_default_context(),
        trust_env=not remote.is_loopback,
        timeout=TIMEOUT,
        follow_redirects=False,
        headers={"User-Agent": "agentkernel"},
    ) as client:
        try:
            yield Registry(remote, environ, client)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.DecodingError) as error:
            raise Refused(f"{remote.registry} is no registry: {error}", hint="look at the image's name") from error


def _resumes(response: httpx.Response, at: int) -> bool:
    return bool(response.headers.get("content-range", "").startswith(f"bytes {at}-"))


def _is_loopback(url: httpx.URL) -> bool:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return Remote(host, "x").is_loopback


async def _body(response: httpx.Response, most: int) -> bytes:
    parts, count = [], 0
    async for piece in response.aiter_raw():
        count += len(piece)
        if count > most:
            raise Refused(
                f"{urllib.parse.quote(response.url.host)} sent more than {most} bytes", hint="is that a registry?"
            )
        parts.append(piece)
    return b"".join(parts)
