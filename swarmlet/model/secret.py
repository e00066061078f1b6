"""Secrets: named payloads that only tasks which need them ever see."""

from swarmlet.core.ids import SecretID
from swarmlet.model.base import ApiStruct, Driver, Record, always, hidden


class SecretSpec(ApiStruct, frozen=True, kw_only=True):
    """`data` is base64 in JSON; it is never sent back to a client."""

    name: str = ""
    labels: dict[str, str] = always({})
    data: bytes = b""
    driver: Driver | None = None
    templating: Driver | None = None

    __repr__ = hidden


class Secret(Record, frozen=True, kw_only=True):
    id: SecretID
    spec: SecretSpec
    internal: bool = False
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0
