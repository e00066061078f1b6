"""Programs and connections of the fake runtime: what a test wants to see of a stream, no process.

Known programs: `cat` gives back its input; `echo WORDS`; `complain WORDS` (on stderr); `exit N`;
`size` tells its terminal at the start and at each resize; `environment`; `flood` writes for ever;
`sleep` reads nothing and runs until it is closed. A dialed port gives back what it is sent.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from swarmlet.runtime.base import NotExecutedError
from swarmlet.wire.messages import ExecRequest

KNOWN: Final = ("cat", "complain", "echo", "environment", "exit", "flood", "size", "sleep")
KILLED: Final = 137
_INPUT_MAX: Final = 4  # pieces that wait to be read
_FLOOD: Final = b"flood\n" * 1000


class FakeExec:
    """One program. `is_closed` tells the test that it was let go of."""

    def __init__(self, request: ExecRequest) -> None:
        name, *words = request.argv
        if name not in KNOWN:
            raise NotExecutedError(f"exec: no such command: {name}", exit_code=127)
        self.request, self.name = request, name
        self.is_closed = False
        self.exit_code: int | None = None
        self.flooded = 0  # pieces of a flood that were read
        self._output: deque[tuple[int, bytes]] = deque()
        self._changed = asyncio.Event()
        self._begin(" ".join(words))

    def _begin(self, words: str) -> None:
        request = self.request
        if self.name == "size":
            self._say(f"{request.rows} {request.columns}\n")
        elif self.name in ("echo", "complain"):
            self._say(words + "\n", 1 if self.name == "echo" or request.is_tty else 2)
            self._end(0)
        elif self.name == "environment":
            self._say("".join(f"{entry}\n" for entry in request.env))
            self._end(0)
        elif self.name == "exit":
            self._end(int(words or 0))

    async def read(self) -> tuple[int, bytes] | None:
        if self.name == "flood" and self.exit_code is None:
            await asyncio.sleep(0)
            self.flooded += 1
            return 1, _FLOOD
        await self._until(lambda: bool(self._output) or self.exit_code is not None)
        if not self._output:
            return None
        found = self._output.popleft()
        self._tell()
        return found

    async def write(self, data: bytes) -> None:
        is_cat = self.name == "cat"
        await self._until(
            lambda: self.exit_code is not None or (is_cat and len(self._output) < _INPUT_MAX)
        )
        if is_cat and self.exit_code is None:
            self._output.append((1, data))
            self._tell()

    async def end_input(self) -> None:
        await asyncio.sleep(0)
        if self.name == "cat":
            self._end(0)

    async def resize(self, rows: int, columns: int) -> None:
        await asyncio.sleep(0)
        if self.name == "size" and self.request.is_tty:
            self._say(f"{rows} {columns}\n")

    async def wait(self) -> int:
        await self._until(lambda: self.exit_code is not None)
        assert self.exit_code is not None
        return self.exit_code

    async def close(self) -> None:
        await asyncio.sleep(0)
        self.is_closed = True
        self._end(KILLED)

    def kill(self, exit_code: int = KILLED) -> None:
        """The world ends it."""
        self._end(exit_code)

    def _say(self, text: str, stream: int = 1) -> None:
        self._output.append((stream, text.encode()))
        self._tell()

    def _end(self, exit_code: int) -> None:
        if self.exit_code is None:
            self.exit_code = exit_code
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()


class FakeDialed:
    """A connection to a port that gives back what it is sent."""

    def __init__(self, port: int) -> None:
        self.port, self.is_closed = port, False
        self._program = FakeExec(ExecRequest(argv=("cat",)))

    async def read(self) -> bytes:
        found = await self._program.read()
        return found[1] if found else b""

    async def write(self, data: bytes) -> None:
        await self._program.write(data)

    async def end_input(self) -> None:
        await self._program.end_input()

    async def close(self) -> None:
        self.is_closed = True
        await self._program.close()
