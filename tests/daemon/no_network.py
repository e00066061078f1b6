"""A host whose port opens and that nobody reaches, and that reaches nobody."""

import asyncio
from contextlib import asynccontextmanager

from swarmlet.core.errors import UnavailableError


class NoLink:
    """Implements NodeLink; every call finds nobody."""

    def __getattr__(self, name):
        async def nobody(addr, *_, **__):
            raise UnavailableError(f"nobody answers at {addr}")

        return nobody


class NoNetwork:
    """Implements NodeNetwork."""

    def __init__(self):
        self.link = NoLink()
        self.exchange = self.link.exchange

    def plan_port(self, plan):
        return _Port()

    @asynccontextmanager
    async def announce(self, at, cluster_id, node_id):
        yield

    async def find(self):
        return []

    async def pass_on(self, addr, request, own):
        raise UnavailableError(f"nobody answers at {addr}")

    async def close(self):
        """Nothing is open."""


class _Port:
    def __init__(self):
        self.opened = asyncio.Event()

    async def run(self):
        self.opened.set()
        await asyncio.Event().wait()

    def close_node(self, node_id):
        """There is no connection."""

    def gauges(self):
        return {}
