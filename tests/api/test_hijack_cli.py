"""The unmodified docker CLI on taken-over connections: attach and exec, with processes behind."""

import asyncio
import fcntl
import functools
import os
import pty
import shutil
import struct
import tempfile
import termios

import pytest
import uvloop

from tests.api.hijack_stub import Stub, served

pytestmark = [
    pytest.mark.docker_cli,
    pytest.mark.skipif(shutil.which("docker") is None, reason="there is no docker CLI on PATH"),
]

PIPE = asyncio.subprocess.PIPE
HEIGHT, WIDTH = 33, 91


class Docker:
    def __init__(self, path, config, stub):
        self.stub = stub
        self._env = {
            "PATH": os.environ["PATH"],
            "HOME": config,
            "DOCKER_CONFIG": config,
            "DOCKER_HOST": f"unix://{path}",
            "TERM": "dumb",
        }

    async def start(self, *words, stdin=PIPE, stdout=PIPE, stderr=PIPE):
        return await asyncio.create_subprocess_exec(
            "docker", *words, env=self._env, stdin=stdin, stdout=stdout, stderr=stderr
        )

    async def __call__(self, *words, stdin=b""):
        """Exit code, stdout, stderr."""
        process = await self.start(*words)
        out, err = await process.communicate(stdin)
        return process.returncode, out, err

    async def in_terminal(self, *words):
        """Exit code, and what a terminal of 33 lines of 91 has shown."""
        terminal, slave = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        process = await self.start(*words, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        shown = await asyncio.get_running_loop().run_in_executor(None, read_all, terminal)
        os.close(terminal)
        return await process.wait(), shown


def read_all(terminal):
    shown = b""
    while True:
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # how a terminal ends
            return shown


def is_there(number):
    return os.path.exists(f"/proc/{number}")


def on_both_loops(case):
    @pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
    @functools.wraps(case)
    def test(run):
        async def main():
            stub = Stub()
            with tempfile.TemporaryDirectory(prefix="swd-", dir="/tmp") as config:
                async with served(stub.routes()) as (path, _), asyncio.timeout(45):
                    await case(Docker(path, config, stub))

        run(main())

    del test.__wrapped__  # pytest would take the arguments from there
    return test


@on_both_loops
async def test_exec_splits_stdout_and_stderr_and_gives_the_exit_code(docker):
    script = "echo out; echo err >&2; exit 3"
    assert await docker("exec", "c1", "sh", "-c", script) == (3, b"out\n", b"err\n")


@on_both_loops
async def test_exec_shows_what_comes_after_the_end_of_its_input(docker):
    script = "cat | tac; sleep 0.7; echo after-eof"
    shown = await docker("exec", "-i", "c1", "sh", "-c", script, stdin=b"hello\nworld\n")
    assert shown == (0, b"world\nhello\nafter-eof\n", b"")


@on_both_loops
async def test_exec_passes_five_megabytes_through_cat(docker):
    data = bytes(range(250)) * 20_000
    assert await docker("exec", "-i", "c1", "cat", stdin=data) == (0, data, b"")


@on_both_loops
async def test_exec_ends_well_where_its_input_is_not_read_to_the_end(docker):
    data = b"first\n" + b"x" * 5_000_000
    process = await docker.start("exec", "-i", "c1", "sh", "-c", "head -n 1; exit 4")

    async def send():
        try:
            process.stdin.write(data)
            await process.stdin.drain()
        except ConnectionError:
            return  # the CLI has ended

    async with asyncio.TaskGroup() as group:
        group.create_task(send())
        out, err = await process.stdout.read(), await process.stderr.read()
    assert (await process.wait(), out, err) == (4, b"first\n", b"")
    process.stdin.close()


@on_both_loops
async def test_exec_in_a_terminal_has_its_size_and_gives_the_exit_code(docker):
    code, shown = await docker.in_terminal(
        "exec", "-it", "c1", "sh", "-c", "sleep 0.3; stty size; tty; exit 5"
    )
    assert code == 5
    assert shown.startswith(b"33 91\r\n/dev/pts/")


@on_both_loops
async def test_attach_gives_the_exit_code_of_the_container(docker):
    docker.stub.script = "echo tick; sleep 0.2; echo tock >&2; exit 7"
    assert await docker("attach", "--no-stdin", "c1") == (7, b"tick\n", b"tock\n")


@on_both_loops
async def test_attach_shows_what_comes_after_the_end_of_its_input(docker):
    docker.stub.script = "wc -c; sleep 0.7; echo still writing >&2"
    assert await docker("attach", "c1", stdin=b"abc") == (0, b"3\n", b"still writing\n")


@on_both_loops
async def test_logs_arrive_while_they_are_written(docker):
    loop, times = asyncio.get_running_loop(), []
    process = await docker.start("logs", "-f", "c1", stderr=asyncio.subprocess.STDOUT)
    async for line in process.stdout:
        assert line == b"line %d\n" % len(times)
        times.append(loop.time())
    assert await process.wait() == 0
    assert len(times) == 4
    assert times[-1] - times[0] > 0.4
    process.stdin.close()


@on_both_loops
async def test_events_arrive_while_they_happen(docker):
    process = await docker.start("events", "--format", "{{.Type}} {{.Action}}")
    await asyncio.sleep(0.3)
    code, _, err = await docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    assert code == 0, err
    assert (await process.stdout.readline()).split()[0] in (b"node", b"network")
    process.terminate()
    await process.communicate()


@on_both_loops
async def test_ten_execs_at_once_keep_to_themselves(docker):
    async def one(number):
        said = b"%d\n" % number * 1000
        assert await docker("exec", "-i", "c1", "cat", stdin=said) == (0, said, b"")

    async with asyncio.TaskGroup() as group:
        for number in range(10):
            group.create_task(one(number))


@on_both_loops
async def test_interrupted_exec_ends_its_process(docker):
    process = await docker.start("exec", "c1", "sh", "-c", "echo $$; exec sleep 100")
    number = int(await process.stdout.readline())
    process.kill()
    await process.communicate()
    async with asyncio.timeout(5):
        while is_there(number):  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)
