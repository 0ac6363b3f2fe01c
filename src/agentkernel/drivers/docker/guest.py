"""A guest whose engine takes orders: pause, go on."""

from __future__ import annotations

from agentkernel.drivers.docker.api import EngineApi, EngineRefused
from agentkernel.drivers.link import LinkGuest
from agentkernel.drivers.link.session import Session
from agentkernel.model.errors import AgentkernelError, Broken


class ContainerGuest(LinkGuest):
    """`Guest` over the guest link and the engine's API. After `attach`, tell it where by `live_in`."""

    def __init__(self, session: Session, *, pids: int) -> None:
        super().__init__(session, pids=pids)
        self._api: EngineApi | None = None
        self._container = ""

    def live_in(self, api: EngineApi, container: str) -> None:
        """The engine and the container's name."""
        self._api, self._container = api, container

    async def pause(self) -> None:
        await self._order("pause", paused=True)

    async def unpause(self) -> None:
        await self._order("unpause", paused=False)

    async def _order(self, order: str, *, paused: bool) -> None:
        self._session.check()
        if self._api is None:
            raise Broken("the sandbox lives in no container yet")
        try:
            state = (await self._api.call("GET", f"/containers/{self._container}/json"))["State"]
            if bool(state["Paused"]) != paused:
                await self._api.call("POST", f"/containers/{self._container}/{order}")
        except (EngineRefused, KeyError, TypeError) as err:
            raise Broken(f"the engine did not {order} the container: {err}") from err
        except AgentkernelError as err:
            raise Broken(err.message, hint=err.hint) from err
