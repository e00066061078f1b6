"""Containers, images, volumes and plugins: a Docker Engine keeps them, this daemon has none.

Lists are empty and a name is not found, which is true and lets `docker inspect NAME` go on to the
objects there are; what would make one is refused.
"""

from typing import Final

from aiohttp import web

from swarmlet.api.call import Call, Handler, Route, reply, reply_error
from swarmlet.core.errors import UnsupportedError

_EMPTY_DISK: Final = {
    "LayersSize": 0,
    "Images": [],
    "Containers": [],
    "Volumes": [],
    "BuildCache": [],
}


def _list_nothing(answer: object) -> Handler:
    async def list_all(call: Call) -> web.Response:
        return reply(answer)

    return list_all


def _miss(sentence: str) -> Handler:
    """`sentence` with `{}` for the name, in Docker's words."""

    async def miss(call: Call) -> web.Response:
        return reply_error(sentence.format(call.name), 404)

    return miss


def _refuse(what: str) -> Handler:
    async def refuse(call: Call) -> web.Response:
        raise UnsupportedError(
            f"{what} are not kept by this daemon: it runs the tasks of services.",
            remedy="Start what you want to run with `service create`.",
        )

    return refuse


def _container_routes() -> tuple[Route, ...]:
    miss, refuse = _miss("No such container: {}"), _refuse("Containers")
    read = ("json", "logs", "top", "stats", "changes", "export", "archive")
    act = (
        "start", "stop", "restart", "kill", "pause", "unpause", "wait", "attach", "resize",
        "rename", "update", "exec",
    )  # fmt: skip
    return (
        Route("GET", "/containers/json", _list_nothing([])),
        Route("POST", "/containers/create", refuse),
        Route("POST", "/containers/prune", refuse),
        Route("POST", "/commit", refuse),
        Route("DELETE", "/containers/{id}", miss),
        *(Route("GET", f"/containers/{{id}}/{verb}", miss) for verb in read),
        *(Route("POST", f"/containers/{{id}}/{verb}", miss) for verb in act),
        Route("HEAD", "/containers/{id}/archive", miss),
        Route("PUT", "/containers/{id}/archive", miss),
        Route("GET", "/exec/{id}/json", _miss("No such exec instance: {}")),
        Route("POST", "/exec/{id}/start", _miss("No such exec instance: {}")),
        Route("POST", "/exec/{id}/resize", _miss("No such exec instance: {}")),
    )


def _image_routes() -> tuple[Route, ...]:
    miss, refuse = _miss("No such image: {}"), _refuse("Images")
    return (
        Route("GET", "/images/json", _list_nothing([])),
        Route("GET", "/images/search", refuse),
        Route("POST", "/images/create", refuse),
        Route("POST", "/images/load", refuse),
        Route("POST", "/images/prune", refuse),
        Route("GET", "/images/get", refuse),
        Route("GET", "/images/{name*}/json", miss),
        Route("GET", "/images/{name*}/history", miss),
        Route("GET", "/images/{name*}/get", miss),
        Route("POST", "/images/{name*}/push", miss),
        Route("POST", "/images/{name*}/tag", miss),
        Route("DELETE", "/images/{name*}", miss),
    )


def _volume_routes() -> tuple[Route, ...]:
    miss, refuse = _miss("get {}: no such volume"), _refuse("Volumes")
    return (
        Route("GET", "/volumes", _list_nothing({"Volumes": [], "Warnings": None})),
        Route("POST", "/volumes/create", refuse),
        Route("POST", "/volumes/prune", refuse),
        Route("GET", "/volumes/{name}", miss),
        Route("PUT", "/volumes/{name}", miss),
        Route("DELETE", "/volumes/{name}", miss),
    )


ROUTES: Final = (
    *_container_routes(),
    *_image_routes(),
    *_volume_routes(),
    Route("GET", "/plugins", _list_nothing([])),
    Route("GET", "/plugins/{name*}/json", _miss("plugin {} not found")),
    Route("POST", "/networks/prune", _refuse("Networks of one host")),
    Route("GET", "/system/df", _list_nothing(_EMPTY_DISK)),
)
