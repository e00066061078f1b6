"""Asks what was once asked of a Docker Engine, and says where the answer is another.

Ids are unified: the recorded one stands for ours from the first answer that shows both, in requests
too. Times, versions and what is of another machine are compared by their type alone.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlencode

from aiohttp.test_utils import TestClient

ID = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-z]{25})\b")
TOKEN = re.compile(r"SWM(?:TKN|KEY)-1-[\w+/-]+")
RPC = re.compile(r"^rpc error: code = \w+ desc = ")
BLANK = frozenset(
    {
        # times and positions
        "CreatedAt", "UpdatedAt", "Timestamp", "StartedAt", "CompletedAt", "Index",
        # of the machine
        "Addr", "NodeAddr", "Hostname", "NanoCPUs", "MemoryBytes", "EngineVersion", "Plugins",
        "PID", "ContainerID", "TrustRoot", "CertIssuerSubject", "CertIssuerPublicKey",
    }
)  # fmt: skip
"""Keys whose values differ from machine to machine: only their type is compared."""
PATIENCE = 50  # looks at what a progress display would have polled
LOOK_S = 0.1


def load(name: str) -> list[dict]:
    """A recording of this folder, in its order."""
    lines = Path(__file__).with_name(name).read_text().splitlines()
    return [json.loads(line) for line in lines]


class Unifier:
    """Which of our ids stands for which recorded one, learnt from answer to answer."""

    def __init__(self, other: "Unifier | None" = None) -> None:
        self.ours: dict[str, str] = dict(other.ours) if other else {}
        self.versions: dict[int, int] = dict(other.versions) if other else {}

    def translate(self, text: str) -> str:
        """A recorded text with our ids."""
        return ID.sub(lambda match: self.ours.get(match[0], match[0]), text)

    def path(self, recorded: str) -> str:
        """A recorded request's path with our ids and versions."""
        path, sign, query = recorded.partition("?")
        pairs = [
            (key, str(self.versions.get(int(value), value)) if key == "version" else value)
            for key, value in parse_qsl(query, keep_blank_values=True)
        ]
        translated = urlencode([(key, self.translate(value)) for key, value in pairs])
        return self.translate(path) + sign + translated

    def differences(self, recorded: object, ours: object, where: str = "") -> Iterator[str]:
        """Paths with both values. Learns ids as it goes."""
        if type(recorded) is not type(ours) and {type(recorded), type(ours)} != {int, float}:
            yield f"{where}: {_short(recorded)} but {_short(ours)}"
        elif isinstance(recorded, dict):
            yield from self._of_objects(recorded, ours, where)
        elif isinstance(recorded, list):
            yield from self._of_lists(recorded, ours, where)
        elif recorded != ours and not (isinstance(recorded, str) and self._same(recorded, ours)):
            yield f"{where}: {_short(recorded)} but {_short(ours)}"

    def _of_objects(self, recorded: dict, ours: dict, where: str) -> Iterator[str]:
        for key in sorted(recorded.keys() | ours.keys()):
            at = f"{where}.{key}"
            if key not in ours:
                yield f"{at}: {_short(recorded[key])} but missing"
            elif key not in recorded:
                yield f"{at}: missing but {_short(ours[key])}"
            elif key not in BLANK or type(recorded[key]) is not type(ours[key]):
                yield from self.differences(recorded[key], ours[key], at)
            elif key == "Index":
                self.versions[recorded[key]] = ours[key]

    def _of_lists(self, recorded: list, ours: list, where: str) -> Iterator[str]:
        """In any order: what is most alike is compared."""
        if len(recorded) != len(ours):
            yield f"{where}: {len(recorded)} items but {len(ours)}"
            return
        rest = list(ours)
        for number, item in enumerate(recorded):
            best = min(rest, key=lambda other: self._cost(item, other))
            rest.remove(best)
            yield from self.differences(item, best, f"{where}[{number}]")

    def _cost(self, recorded: object, ours: object) -> int:
        return sum(1 for _ in Unifier(self).differences(recorded, ours))

    def _same(self, recorded: str, ours: str) -> bool:
        recorded, ours = RPC.sub("", recorded), RPC.sub("", ours)
        if TOKEN.search(recorded):
            return TOKEN.sub("T", recorded) == TOKEN.sub("T", ours)
        if ID.sub("I", recorded) != ID.sub("I", ours):
            return False
        known = set(self.ours.values())
        for one, other in zip(ID.findall(recorded), ID.findall(ours), strict=True):
            if one not in self.ours and other not in known:
                self.ours[one] = other
                known.add(other)
            elif self.ours.get(one) != other:
                return False
        return True


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


class Replay:
    """Asks a daemon command after command. Ids learnt stay learnt; differences that `is_fine`
    says are none."""

    def __init__(self, client: TestClient, is_fine: Callable[[str, str], bool]) -> None:
        self._client, self._ids, self._is_fine = client, Unifier(), is_fine
        self._name = ""

    async def run(self, command: dict) -> list[str]:
        """Differences as "METHOD path: where: recorded but ours"; what a progress display polled is
        asked again until it is the same, or for five seconds."""
        self._name = command["name"]
        found: list[str] = []
        exchanges = command["exchanges"]
        for number, exchange in enumerate(exchanges):
            is_after = any(e["method"] == "POST" for e in exchanges[:number])
            is_poll = "last" in exchange and (is_after or exchange["last"] == exchange["answer"])
            if not is_poll:
                found += await self._compare(exchange, exchange["answer"])
        for exchange in exchanges:
            if "last" in exchange:
                found += await self._settle(exchange)
        return found

    async def _settle(self, exchange: dict) -> list[str]:
        for _ in range(PATIENCE):
            before = Unifier(self._ids)
            found = await self._compare(exchange, exchange["last"])
            if not found:
                break
            self._ids, last = before, self._ids
            await asyncio.sleep(LOOK_S)
        else:
            self._ids = last
        return found

    async def _compare(self, exchange: dict, recorded: object) -> list[str]:
        method, path = exchange["method"], self._ids.path(exchange["path"])
        body = exchange["request"]
        data = None if body is None else self._ids.translate(json.dumps(body))
        data = exchange.get("raw", data)
        sent = {} if data is None else {"Content-Type": exchange.get("type", "application/json")}
        async with self._client.request(method, path, data=data, headers=sent) as answer:
            ours = _decoded(await answer.read())
        if path.endswith("/info") and isinstance(ours, dict):
            ours = {"Swarm": ours["Swarm"]}  # the rest is about the machine
        found = [] if answer.status == exchange["status"] else [_status(exchange, answer.status)]
        for name, value in exchange["headers"].items():
            if answer.headers.get(name) != value:
                found.append(f"{name}: {value} but {answer.headers.get(name)}")
        found += self._ids.differences(recorded, ours)
        said = [f"{method} {exchange['path']}: {difference}" for difference in found]
        return [difference for difference in said if not self._is_fine(self._name, difference)]


def _status(exchange: dict, ours: int) -> str:
    return f"status: {exchange['status']} but {ours}"


def _decoded(content: bytes) -> object:
    """JSON; of a stream, that there was one."""
    try:
        return json.loads(content) if content else None
    except ValueError:
        return {"_stream": True}
