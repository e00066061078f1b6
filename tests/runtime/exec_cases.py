"""What a program beside a task may count on, whatever runs the task: one table for all runtimes.

A case gets a Stage: a runtime with one running task, whose host is this one.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import pytest

from swarmlet.core.ids import TaskID
from swarmlet.runtime.base import ExecProcess, NotExecutedError, Runtime, RuntimeProblemError
from swarmlet.wire.messages import STREAM_DATA_MAX_B, ExecRequest
from tests.runtime.process_world import MARK, processes_with, until

WAIT_S = 60.0


@dataclass
class Stage:
    """`begin` starts another task that runs a line of sh, and returns its id."""

    runtime: Runtime
    task_id: TaskID
    begin: Callable[[str], Awaitable[TaskID]]

    async def open(self, *argv: str, **request) -> ExecProcess:
        async with asyncio.timeout(WAIT_S):
            return await self.runtime.exec(self.task_id, ExecRequest(argv=argv, **request))

    async def shell(self, script: str, **request) -> ExecProcess:
        return await self.open("/bin/sh", "-c", script, **request)

    async def run(self, script: str, given: bytes | None = None, **request) -> "Done":
        """The program from its start to its end, fed with `given`."""
        program = await self.shell(script, has_stdin=given is not None, **request)
        async with asyncio.timeout(WAIT_S), asyncio.TaskGroup() as group:
            if given is not None:
                group.create_task(feed(program, given))
            return await finish(program)


@dataclass
class Done:
    code: int
    out: bytes
    err: bytes


async def feed(program: ExecProcess, given: bytes) -> None:
    for at in range(0, len(given), STREAM_DATA_MAX_B):
        await program.write(given[at : at + STREAM_DATA_MAX_B])
    await program.end_input()


async def finish(program: ExecProcess) -> Done:
    parts: dict[int, list[bytes]] = {1: [], 2: []}
    while (piece := await program.read()) is not None:
        stream, data = piece
        assert 0 < len(data) <= STREAM_DATA_MAX_B
        parts[stream].append(data)
    code = await program.wait()
    await program.close()
    return Done(code, b"".join(parts[1]), b"".join(parts[2]))


async def read_until(program: ExecProcess, wanted: bytes) -> bytes:
    seen = b""
    async with asyncio.timeout(WAIT_S):
        while wanted not in seen:
            piece = await program.read()
            assert piece is not None, seen
            seen += piece[1]
    return seen


async def exit_code_is_told(stage: Stage) -> None:
    for script, code in (
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -9 $$", 137),
        ("kill -TERM $$", 143),
    ):
        assert (await stage.run(script)).code == code, script


async def output_and_errors_are_told_apart(stage: Stage) -> None:
    done = await stage.run("echo out; echo err >&2")
    assert done == Done(0, b"out\n", b"err\n")


async def end_of_input_reaches_the_program(stage: Stage) -> None:
    assert (await stage.run("cat; echo end", b"given\n")).out == b"given\nend\n"
    size = 3_000_000
    assert (await stage.run("wc -c", b"x" * size)).out.split() == [b"%d" % size]


async def input_nobody_gives_is_at_its_end(stage: Stage) -> None:
    assert (await stage.run("cat; echo end")).out == b"end\n"


async def environment_and_folder_are_the_tasks_and_what_is_asked_for(stage: Stage) -> None:
    done = await stage.run("echo $KEY $MORE; pwd", env=("MORE=1=2",), workdir="/tmp")
    assert done.out == b"task 1=2\n/tmp\n"
    assert (await stage.run("echo $KEY", env=("KEY=mine",))).out == b"mine\n"


async def program_waits_while_nobody_reads(stage: Stage) -> None:
    size = 30_000_000
    program = await stage.shell(f"head -c {size} /dev/zero")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.7):
            await program.wait()
    done = await finish(program)
    assert (done.code, len(done.out)) == (0, size)


async def writer_waits_while_the_program_does_not_read(stage: Stage) -> None:
    program = await stage.open("/bin/sleep", MARK, has_stdin=True)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await feed(program, b"x" * 30_000_000)
    await program.close()


async def what_nobody_reads_any_more_is_let_go(stage: Stage) -> None:
    program = await stage.shell("exit 3", has_stdin=True)
    assert await program.wait() == 3
    async with asyncio.timeout(WAIT_S):
        await feed(program, b"x" * 3_000_000)
    await program.close()


async def terminal_has_its_size_and_takes_another(stage: Stage) -> None:
    script = "sleep 0.3; stty size; read x; stty size; test -t 1 && echo $TERM"
    program = await stage.shell(script, is_tty=True, has_stdin=True, rows=33, columns=77)
    assert b"33 77\r\n" in await read_until(program, b"33 77")
    await program.resize(40, 132)
    await program.write(b"go\n")
    seen = await read_until(program, b"xterm")
    assert b"40 132\r\n" in seen
    assert (await finish(program)).code == 0


async def terminals_input_ends_as_a_person_ends_it(stage: Stage) -> None:
    done = await stage.run("cat; echo end", b"given\n", is_tty=True)
    assert done.out.endswith(b"given\r\nend\r\n")
    assert done.err == b""


async def close_kills_the_program_and_its_session(stage: Stage) -> None:
    for is_tty in (False, True):
        program = await stage.shell(
            f"sleep {MARK}.1 & sleep {MARK}.2; echo never", is_tty=is_tty, has_stdin=True
        )
        await until(lambda: len(processes_with(f"sleep\0{MARK}")) >= 2)
        began = time.monotonic()
        await program.close()
        await program.close()
        assert time.monotonic() - began < 10
        await until(lambda: processes_with(f"sleep\0{MARK}") == [])
        assert await program.read() is None


async def program_that_is_not_there_has_an_exit_code(stage: Stage) -> None:
    for argv, code in (
        (("no-such-program",), 127),
        (("/no/such/program",), 127),
        (("/etc/passwd",), 126),
    ):
        with pytest.raises(NotExecutedError, match=argv[0]) as caught:
            await stage.open(*argv)
        assert caught.value.exit_code == code, argv


async def task_that_does_not_run_has_no_programs(stage: Stage) -> None:
    with pytest.raises(RuntimeProblemError, match="nobody"):
        await stage.runtime.exec(TaskID("nobody"), ExecRequest(argv=("true",)))
    task_id = await stage.begin("exit 0")
    await stage.runtime.wait(task_id)
    with pytest.raises(RuntimeProblemError, match="does not run"):
        await stage.runtime.exec(task_id, ExecRequest(argv=("true",)))


async def nothing_is_no_program(stage: Stage) -> None:
    for argv in ((), ("",)):
        with pytest.raises(RuntimeProblemError, match="No program"):
            await stage.open(*argv)


async def task_that_ends_takes_its_programs_along(stage: Stage) -> None:
    task_id = await stage.begin(f"sleep {MARK}.8")
    program = await stage.runtime.exec(task_id, ExecRequest(argv=("sleep", f"{MARK}.9")))
    await stage.runtime.stop(task_id, "SIGTERM", 0)
    async with asyncio.timeout(WAIT_S):
        assert (await finish(program)).code == 137
    await until(lambda: processes_with(f"sleep\0{MARK}.9") == [])


async def start_that_is_given_up_leaves_nothing(stage: Stage) -> None:
    for wait_s in (0.001, 0.01, 0.02, 0.05):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wait_s):
                program = await stage.open("/bin/sleep", f"{MARK}.7")
                await program.close()
        await until(lambda: processes_with(f"sleep\0{MARK}.7") == [])


async def all_may_be_asked_again_at_the_end(stage: Stage) -> None:
    program = await stage.shell("echo once")
    assert await finish(program) == Done(0, b"once\n", b"")
    assert await program.read() is None
    assert await program.wait() == 0
    await program.write(b"x")
    await program.end_input()
    await program.resize(1, 1)
    await program.close()


async def a_hundred_run_at_once(stage: Stage) -> None:
    async def one(number: int) -> None:
        done = await stage.run(f"cat; exit {number}", b"%d" % number)
        assert done == Done(number, b"%d" % number, b"")

    async with asyncio.TaskGroup() as group:
        for number in range(100):
            group.create_task(one(number))


CASES = (
    exit_code_is_told,
    output_and_errors_are_told_apart,
    end_of_input_reaches_the_program,
    input_nobody_gives_is_at_its_end,
    environment_and_folder_are_the_tasks_and_what_is_asked_for,
    program_waits_while_nobody_reads,
    writer_waits_while_the_program_does_not_read,
    what_nobody_reads_any_more_is_let_go,
    terminal_has_its_size_and_takes_another,
    terminals_input_ends_as_a_person_ends_it,
    close_kills_the_program_and_its_session,
    program_that_is_not_there_has_an_exit_code,
    task_that_does_not_run_has_no_programs,
    nothing_is_no_program,
    task_that_ends_takes_its_programs_along,
    start_that_is_given_up_leaves_nothing,
    all_may_be_asked_again_at_the_end,
    a_hundred_run_at_once,
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
