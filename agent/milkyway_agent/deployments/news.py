"""What the verifier tells without being asked: that it began, what it admitted or refused, whether the uplink is connected.

Orders are handed on; the rest is kept here, for the status.
"""

from collections import deque
from collections.abc import AsyncIterable, Awaitable, Callable

from milkyway_agent.deployments.verifier_link import News, Note
from milkyway_agent.ipc.messages import Begun, CommandAdmitted, DesiredAdmitted, LinkState, RefusalNoted


class NewsReader:
    """Reads the news. *on_begun*: a new verifier began; *on_refusal*: something was refused for a new reason.

    ``begun`` is None until a verifier began, ``connected`` until the uplink said so for the first time.
    """

    def __init__(
        self,
        refusals: deque[str],
        note: Note,
        *,
        on_begun: Callable[[], None],
        on_desired: Callable[[DesiredAdmitted], None],
        on_command: Callable[[CommandAdmitted], Awaitable[None]],
        on_refusal: Callable[[], None],
    ) -> None:
        self.begun: Begun | None = None
        self.connected: bool | None = None
        self._refusals = refusals
        self._note = note
        self._on_begun = on_begun
        self._on_desired = on_desired
        self._on_command = on_command
        self._on_refusal = on_refusal

    async def run(self, news: AsyncIterable[News]) -> None:
        """Take *news* in order, until there is no more."""
        async for message in news:
            await self.take(message)

    async def take(self, message: News) -> None:
        """Keep or hand on *message*."""
        match message:
            case Begun():
                self.begun = message
                self._on_begun()
            case DesiredAdmitted():
                self._on_desired(message)
            case CommandAdmitted():
                await self._on_command(message)
            case RefusalNoted():
                self._note("refused", check=message.check, why=message.message)
                # A report that can't be sent is such a refusal itself: if each led to the next there would be no end to it.
                if message.message not in list(self._refusals)[-1:]:
                    self._refusals.append(message.message)
                    self._on_refusal()
            case LinkState():
                self.connected = message.connected
                self._note("link_changed", connected=message.connected, detail=message.detail)
