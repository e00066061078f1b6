"""Events, as `GET /events` streams them."""

import msgspec

from swarmlet.core.limits import MS_PER_S, NS_PER_MS
from swarmlet.model.base import ApiStruct
from swarmlet.model.event_message import EventMessage


class ActorJson(ApiStruct, frozen=True, kw_only=True):
    id: str
    attributes: dict[str, str]


class EventJson(ApiStruct, frozen=True, kw_only=True):
    type: str
    action: str
    actor: ActorJson
    scope: str = msgspec.field(name="scope")
    time: int = msgspec.field(name="time")
    time_nano: int = msgspec.field(name="timeNano")


def render_event(message: EventMessage) -> EventJson:
    return EventJson(
        type=message.kind,
        action=message.action,
        actor=ActorJson(id=message.id, attributes=message.attributes),
        scope="swarm",
        time=message.at_ms // MS_PER_S,
        time_nano=message.at_ms * NS_PER_MS,
    )
