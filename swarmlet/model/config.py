"""Configs: named payloads that are no secret."""

from swarmlet.core.ids import ConfigID
from swarmlet.model.base import ApiStruct, Driver, Record, always


class ConfigSpec(ApiStruct, frozen=True, kw_only=True):
    """`data` is base64 in JSON."""

    name: str = ""
    labels: dict[str, str] = always({})
    data: bytes = b""
    templating: Driver | None = None


class Config(Record, frozen=True, kw_only=True):
    id: ConfigID
    spec: ConfigSpec
    version: int = 0
    created_ms: int = 0
    updated_ms: int = 0
