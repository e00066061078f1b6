"""A stub of the containers' API behind the product's door: what is asked for runs as a process."""

import asyncio
import fcntl
import json
import os
import pty
import struct
import tempfile
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from swarmlet.api.app import Door, build_app
from swarmlet.api.call import Route, reply, reply_empty, reply_error, stream
from swarmlet.api.hijack import hijack
from swarmlet.api.listener import serve_unix
from swarmlet.api.router import RouteTable
from swarmlet.api.routes import ROUTES
from swarmlet.api.streams import MULTIPLEXED, frame
from tests.api.world import World

PIPE, DEVNULL = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL


@asynccontextmanager
async def served(routes) -> AsyncIterator[tuple[str, Door]]:
    """The product's door and listener, with these routes before its own; yields socket and door."""
    door = Door(World())
    local = [Route(route.method, route.path, route.handler, is_local=True) for route in routes]
    door._routes = RouteTable((*local, *ROUTES))
    with tempfile.TemporaryDirectory(prefix="swh-", dir="/tmp") as directory:
        async with serve_unix(build_app(door._context.engine, door), f"{directory}/s.sock") as path:
            yield path, door


async def feed(raw, process):
    """The client's input to the process, which may have ended or closed it."""
    with suppress(ConnectionError):
        while (data := await raw.read()) and not process.stdin.is_closing():
            process.stdin.write(data)
            await process.stdin.drain()
    process.stdin.close()


async def copy(reader, raw, number):
    while data := await reader.read(32_768):
        await raw.write(frame(number, data))


@asynccontextmanager
async def killed(process):
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def run_piped(raw, command, *, has_input):
    """Run with the stream as standard input and output; returns the exit code."""
    kind = PIPE if has_input else DEVNULL
    process = await asyncio.create_subprocess_exec(*command, stdin=kind, stdout=PIPE, stderr=PIPE)
    async with killed(process), asyncio.TaskGroup() as group:
        feeding = group.create_task(feed(raw, process)) if has_input else None
        async with asyncio.TaskGroup() as outputs:
            outputs.create_task(copy(process.stdout, raw, 1))
            outputs.create_task(copy(process.stderr, raw, 2))
        code = await process.wait()
        if feeding is not None:
            feeding.cancel()
    return code


def set_size(terminal, height, width):
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))


async def read_terminal(terminal):
    """b"" at its end, which is an error for a terminal."""
    ready = asyncio.Event()
    asyncio.get_running_loop().add_reader(terminal, ready.set)
    try:
        await ready.wait()
        return os.read(terminal, 32_768)
    except OSError:
        return b""
    finally:
        asyncio.get_running_loop().remove_reader(terminal)


class Stub:
    """One container, whatever its name; `script` is its main process."""

    def __init__(self) -> None:
        self.execs = {}
        self.script = "exit 0"
        self.code = None
        self.ended = asyncio.Event()

    def routes(self):
        return (
            Route("GET", "/containers/{name}/json", self.show),
            Route("POST", "/containers/{name}/attach", self.attach),
            Route("POST", "/containers/{name}/wait", self.wait),
            Route("GET", "/containers/{name}/logs", self.logs),
            Route("POST", "/containers/{name}/exec", self.create),
            Route("POST", "/exec/{id}/start", self.start),
            Route("POST", "/exec/{id}/resize", self.resize),
            Route("GET", "/exec/{id}/json", self.inspect),
        )

    async def show(self, call):
        state = {"Running": True, "Status": "running"}
        config = {"Tty": False, "OpenStdin": True, "Image": "x"}
        shown = {"Id": "c" * 64, "Name": f"/{call.name}", "State": state, "Config": config}
        return reply({**shown, "HostConfig": {"LogConfig": {"Type": "json-file"}}})

    async def attach(self, call):
        async def serve(raw):
            has_input = call.query.get("stdin") == "1"
            self.code = await run_piped(raw, ["sh", "-c", self.script], has_input=has_input)
            self.ended.set()

        return await hijack(call, serve, is_tty=False)

    async def wait(self, call):
        out = stream("application/json")
        await out.prepare(call.request)
        await self.ended.wait()
        await out.write(b'{"StatusCode":%d}\n' % self.code)
        return out

    async def logs(self, call):
        out = stream(MULTIPLEXED)
        await out.prepare(call.request)
        for number in range(4):
            await out.write(frame(1 + number % 2, b"line %d\n" % number))
            await asyncio.sleep(0.2)
        return out

    async def create(self, call):
        name = f"{len(self.execs):064x}"
        self.execs[name] = json.loads(await call.body())
        return reply({"Id": name}, 201)

    async def inspect(self, call):
        exec_ = self.execs[call.name]
        code = exec_.get("code")
        return reply({"ID": call.name, "Running": code is None, "ExitCode": code, "Pid": 1})

    async def resize(self, call):
        terminal = self.execs[call.name].get("terminal")
        if terminal is None:
            return reply_error("no such exec", 404)
        set_size(terminal, int(call.query["h"]), int(call.query["w"]))
        return reply_empty()

    async def start(self, call):
        exec_ = self.execs[call.name]
        asked = json.loads(await call.body())

        async def serve(raw):
            if exec_["Tty"]:
                await self.run_in_terminal(raw, exec_, asked.get("ConsoleSize"))
            else:
                has_input = exec_["AttachStdin"]
                exec_["code"] = await run_piped(raw, exec_["Cmd"], has_input=has_input)

        return await hijack(call, serve, is_tty=exec_["Tty"])

    async def run_in_terminal(self, raw, exec_, size):
        terminal, slave = pty.openpty()
        if size:
            set_size(terminal, *size)
        process = await asyncio.create_subprocess_exec(
            "setsid", "--ctty", "--wait", *exec_["Cmd"], stdin=slave, stdout=slave, stderr=slave
        )
        os.close(slave)
        exec_["terminal"] = terminal

        async def type_in():
            while data := await raw.read():
                os.write(terminal, data)

        try:
            async with killed(process), asyncio.TaskGroup() as group:
                typing = group.create_task(type_in())
                while data := await read_terminal(terminal):
                    await raw.write(data)
                exec_["code"] = await process.wait()
                typing.cancel()
        finally:
            del exec_["terminal"]
            os.close(terminal)
