"""`/_ping`, `/version`, `/info`, `/metrics` and what else is about the daemon as a whole."""

from typing import TYPE_CHECKING, Final

import msgspec
from aiohttp import web

from swarmlet.api.call import (
    API_VERSION,
    API_VERSION_MIN,
    Call,
    Route,
    reply_bytes,
    reply_text,
    version_text,
)
from swarmlet.api.engine import Engine, EngineFacts
from swarmlet.api.query import registry_auth
from swarmlet.api.render.info import SwarmNumbers, render_info
from swarmlet.core.errors import NotManagerError, UnsupportedError
from swarmlet.core.version import VERSION

if TYPE_CHECKING:
    from swarmlet.manager.control import Control

_GO_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_PING_HEADERS: Final = {
    "Builder-Version": "1",
    "Cache-Control": "no-cache, no-store, must-revalidate",
    "Content-Type": "text/plain; charset=utf-8",
    "Pragma": "no-cache",
}
_METRICS_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def _control_or_none(engine: Engine) -> "Control | None":
    try:
        return engine.control()
    except NotManagerError:
        return None


def _swarm_header(engine: Engine) -> str:
    state = engine.swarm_state().state
    if state != "active":
        return state
    return "active/worker" if _control_or_none(engine) is None else "active/manager"


async def ping(call: Call) -> web.Response:
    is_head = call.request.method == "HEAD"
    headers = {**_PING_HEADERS, "Swarm": _swarm_header(call.engine)}
    if is_head:
        headers["Content-Length"] = "0"  # aiohttp leaves it out where there is no body
    return reply_text("" if is_head else "OK", headers)


def _build(facts: EngineFacts) -> dict[str, object]:
    architecture = facts.runtime.architecture
    return {
        "ApiVersion": version_text(API_VERSION),
        "MinAPIVersion": version_text(API_VERSION_MIN),
        "Os": facts.runtime.os,
        "Arch": _GO_ARCHITECTURES.get(architecture, architecture),
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": facts.kernel_version,
        "BuildTime": "",
    }


async def version(call: Call) -> web.Response:
    facts = call.engine.facts
    build = _build(facts)
    engine = {
        "Name": "Engine",
        "Version": VERSION,
        "Details": {**build, "Experimental": "false"},
    }
    runtime = {
        "Name": f"runtime {facts.runtime.name}",
        "Version": facts.runtime.engine_version,
        "Details": {},
    }
    shown = {
        "Platform": {"Name": "swarmlet"},
        "Components": [engine, runtime],
        "Version": VERSION,
        **build,
    }
    return reply_bytes(msgspec.json.encode(shown))


async def _swarm_numbers(control: "Control") -> SwarmNumbers:
    """What a manager adds to `/info`: what it knows, at once, and what is wrong."""
    view = await control.read(stale=True)
    return SwarmNumbers(
        members=tuple(one.member for one in control.health().members),
        nodes=len(view.nodes),
        managers=sum(node.role == "manager" for node in view.nodes.all()),
        cluster=next(iter(view.clusters.all()), None),
        problem=control.problem(),
    )


async def info(call: Call) -> web.Response:
    control = _control_or_none(call.engine)
    numbers = None if control is None else await _swarm_numbers(control)
    facts, state = call.engine.facts, call.engine.swarm_state()
    shown = render_info(facts, state, numbers, VERSION)
    return reply_bytes(msgspec.json.encode(shown))  # in the order it was written down


def metrics_text(gauges: dict[str, float]) -> str:
    """Prometheus text: series by name, each name with its type."""
    lines, last = [], ""
    for series in sorted(gauges, key=lambda name: (name.partition("{")[0], name)):
        name = series.partition("{")[0]
        if name != last:
            kind = "counter" if name.endswith("_total") else "gauge"
            lines.append(f"# TYPE {name} {kind}")
            last = name
        lines.append(f"{series} {gauges[series]:g}")
    return "".join(f"{line}\n" for line in lines)


async def metrics(call: Call) -> web.Response:
    return reply_text(metrics_text(call.engine.gauges()), {"Content-Type": _METRICS_TYPE})


async def refuse_login(call: Call) -> web.Response:
    raise UnsupportedError(
        "Credentials are not checked by this daemon.",
        remedy="Log in against a Docker Engine: docker keeps them for --with-registry-auth.",
    )


async def distribution(call: Call) -> web.Response:
    auth = registry_auth(call.request.headers)
    return reply_bytes((await call.engine.distribution(call.name, auth)).rstrip(b"\n"))


async def refuse_build(call: Call) -> web.Response:
    raise UnsupportedError("Images are not built by this daemon.")


ROUTES: Final = (
    Route("GET", "/_ping", ping),
    Route("HEAD", "/_ping", ping),
    Route("GET", "/version", version),
    Route("GET", "/info", info),
    Route("GET", "/metrics", metrics),
    Route("POST", "/auth", refuse_login),
    Route("GET", "/distribution/{name*}/json", distribution),
    Route("POST", "/session", refuse_build),
    Route("POST", "/grpc", refuse_build),
    Route("POST", "/build", refuse_build),
    Route("POST", "/build/prune", refuse_build),
    Route("POST", "/build/cancel", refuse_build),
)
