"""Secrets and configs: created, relabelled, removed while no service uses them."""

import hmac

from msgspec.structs import replace

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.core.ids import ConfigID, SecretID
from swarmlet.manager.control.base import ControlBase, check_version
from swarmlet.model.change import Create, NotInUse, Remove, Update
from swarmlet.model.config import Config, ConfigSpec
from swarmlet.model.secret import Secret, SecretSpec
from swarmlet.model.unsupported import refuse_secret
from swarmlet.model.validate import check_config, check_labels, check_secret


class PayloadVerbs(ControlBase):
    """A payload never changes: a new one has a new name, so that tasks can move from one to the
    other."""

    async def create_secret(self, spec: SecretSpec) -> SecretID:
        check_secret(spec)
        refuse_secret(spec)
        secret_id = SecretID(self._new_id())
        await self._commit(f"secret {spec.name}", [Create(obj=Secret(id=secret_id, spec=spec))])
        return secret_id

    async def update_secret(self, ref: str, version: int, spec: SecretSpec) -> None:
        """Only labels may differ; data may be left out, or sent again as it is."""
        check_labels(spec.labels)
        row = self.find_secret(await self.read(), ref)
        check_version(version, row.version, f"secret {ref}")
        _check_only_labels(row.spec, spec)
        new = replace(row, spec=replace(row.spec, labels=spec.labels))
        await self._commit(f"secret {ref}", [Update(obj=new, seen=version)])

    async def remove_secret(self, ref: str) -> None:
        """Refused while a service's current spec uses it; tasks do not count."""
        row = self.find_secret(await self.read(), ref)
        guard = NotInUse(table=Secret, id=row.id)
        await self._commit(f"secret {ref}", [Remove(table=Secret, id=row.id)], [guard])

    async def create_config(self, spec: ConfigSpec) -> ConfigID:
        check_config(spec)
        config_id = ConfigID(self._new_id())
        await self._commit(f"config {spec.name}", [Create(obj=Config(id=config_id, spec=spec))])
        return config_id

    async def update_config(self, ref: str, version: int, spec: ConfigSpec) -> None:
        """Only labels may differ; data may be left out, or sent again as it is."""
        check_labels(spec.labels)
        row = self.find_config(await self.read(), ref)
        check_version(version, row.version, f"config {ref}")
        _check_only_labels(row.spec, spec)
        new = replace(row, spec=replace(row.spec, labels=spec.labels))
        await self._commit(f"config {ref}", [Update(obj=new, seen=version)])

    async def remove_config(self, ref: str) -> None:
        """Refused while a service's current spec uses it; tasks do not count."""
        row = self.find_config(await self.read(), ref)
        guard = NotInUse(table=Config, id=row.id)
        await self._commit(f"config {ref}", [Remove(table=Config, id=row.id)], [guard])


def _check_only_labels(old: SecretSpec | ConfigSpec, new: SecretSpec | ConfigSpec) -> None:
    is_same_data = not new.data or hmac.compare_digest(old.data, new.data)
    if new.name != old.name or not is_same_data:
        raise InvalidArgumentError(
            "only updates to Labels are allowed",
            remedy="Create another one under a new name, and point the services to it.",
        )
