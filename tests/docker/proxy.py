"""A unix socket before the engine's, that can vanish or fall silent in the middle of a call."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path


class Proxy:
    """`cut_at`: once these bytes are sent to the engine, its answer is lost with the connection.
    `drop_at`: these never reach the engine, and the connection is lost. While not `speaks`,
    connections are taken and nothing is answered."""

    def __init__(self, path: Path, engine_path: str) -> None:
        self.host, self._path, self._engine_path = f"unix://{path}", str(path), engine_path
        self.cut_at = self.drop_at = b""
        self.cuts = 0
        self.speaks = asyncio.Event()
        self.speaks.set()
        self._open: dict[asyncio.StreamWriter, None] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_unix_server(self._serve, self._path)

    async def stop(self) -> None:
        """The socket vanishes with every connection."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._open):
            writer.transport.abort()
        await asyncio.sleep(0)
        os.unlink(self._path)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_unix_connection(self._engine_path)
        except OSError:
            writer.close()
            return
        self._open[writer] = self._open[back] = None
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._copy(reader, back, writer))
                group.create_task(self._copy(there, writer, None))
        finally:
            for one in (writer, back):
                self._open.pop(one, None)
                one.close()

    async def _copy(
        self,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        asker: asyncio.StreamWriter | None,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65_536):
                await self.speaks.wait()
                if asker is not None and self.drop_at and self.drop_at in data:
                    self.drop_at, self.cuts = b"", self.cuts + 1
                    asker.transport.abort()
                    break
                target.write(data)
                await target.drain()
                if asker is not None and self.cut_at and self.cut_at in data:
                    self.cut_at, self.cuts = b"", self.cuts + 1
                    asker.transport.abort()
        target.close()


@contextlib.asynccontextmanager
async def proxied(folder: Path, engine_path: str) -> AsyncIterator[Proxy]:
    proxy = Proxy(folder / "proxy.sock", engine_path)
    await proxy.start()
    try:
        yield proxy
    finally:
        proxy.speaks.set()
        await proxy.stop()
