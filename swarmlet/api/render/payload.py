"""Secrets and configs. A secret's payload is never printed."""

import msgspec

from swarmlet.api.render.common import ObjectVersion, rfc3339
from swarmlet.model.base import ApiStruct
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.secret import Secret, SecretSpec


class SecretJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    version: ObjectVersion
    created_at: str
    updated_at: str
    spec: SecretSpec


class ConfigJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    version: ObjectVersion
    created_at: str
    updated_at: str
    spec: ConfigSpec


def render_secret(secret: Secret) -> SecretJson:
    return SecretJson(
        id=secret.id,
        version=ObjectVersion(index=secret.version),
        created_at=rfc3339(secret.created_ms),
        updated_at=rfc3339(secret.updated_ms),
        spec=msgspec.structs.replace(secret.spec, data=b""),
    )


def render_config(config: Config) -> ConfigJson:
    return ConfigJson(
        id=config.id,
        version=ObjectVersion(index=config.version),
        created_at=rfc3339(config.created_ms),
        updated_at=rfc3339(config.updated_ms),
        spec=config.spec,
    )
