"""A task's output through the engine's log stream."""

import asyncio

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarmlet.core.ids import TaskID
from swarmlet.model.base import Driver
from swarmlet.runtime.base import RuntimeProblemError
from swarmlet.runtime.docker.logs import (
    FRAME_SIZE_MAX_B,
    PART_SIZE_B,
    FrameParser,
    TerminalParser,
    log_query,
)
from swarmlet.wire.messages import LogLine, LogOptions
from tests.docker.world import begin, lines, shell

STAMP = "2026-11-22T23:00:00.123456789Z "
AT_NS = 1_795_388_400_123_456_789
TASK = TaskID("t")


def frame(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def feed(parser, data: bytes, cuts: list[int]) -> list[LogLine]:
    """`data` in pieces cut at `cuts`."""
    ends = [*sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    starts = [0, *ends[:-1]]
    found = [line for a, b in zip(starts, ends, strict=True) for line in parser.feed(data[a:b])]
    return [*found, *parser.finish()]


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=40)), max_size=6),
    st.lists(st.integers(0, 500), max_size=8),
)
def test_frames_give_the_same_lines_however_they_are_cut(output, cuts):
    data = b"".join(frame(stream, STAMP.encode() + text) for stream, text in output)
    expected = [LogLine(TASK, AT_NS, stream, text) for stream, text in output]
    assert feed(FrameParser(TASK), data, cuts) == expected


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=30).map(lambda text: text.replace(b"\n", b"") + b"\n"),
            st.just(b"x" * PART_SIZE_B),
        ),
        max_size=5,
    ),
    st.lists(st.integers(0, 40_000), max_size=5),
)
def test_a_terminals_lines_and_parts_are_told_apart_however_they_are_cut(texts, cuts):
    data = b"".join(STAMP.encode() + text for text in texts)
    expected = [LogLine(TASK, AT_NS, 1, text) for text in texts]
    assert feed(TerminalParser(TASK), data, cuts) == expected


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (frame(3, b"Error grabbing logs: EOF"), "Error grabbing logs: EOF"),
        (frame(9, b"x"), "damaged"),
        (bytes([1, 0, 0, 0]) + (FRAME_SIZE_MAX_B + 1).to_bytes(4, "big"), "damaged"),
    ],
)
def test_frame_that_is_none_is_a_problem(data, words):
    with pytest.raises(RuntimeProblemError, match=words):
        list(FrameParser(TASK).feed(data))


@pytest.mark.parametrize("payload", [b"no time", b"2026-99-99T23:00:00.123456789Z x", b""])
def test_line_without_a_time_is_passed_on_whole(payload):
    assert feed(FrameParser(TASK), frame(1, payload), []) == [LogLine(TASK, 0, 1, payload)]


def test_options_are_asked_for_as_the_engine_wants_them():
    options = LogOptions(follow=True, stderr=False, tail=5, since_ns=1_500_000_000)
    assert log_query(options) == {
        "stdout": "1",
        "stderr": "0",
        "follow": "1",
        "timestamps": "1",
        "tail": "5",
        "since": "1.500000000",
    }
    assert log_query(LogOptions())["tail"] == "all"


@pytest.mark.docker_engine
async def test_both_streams_are_told_apart_and_bounded(runtime):
    task = shell("la", "echo one; echo two >&2; sleep 0.5; echo three")
    await begin(runtime, task)
    await runtime.wait(task.id)
    found = await lines(runtime, "la")
    assert sorted((line.stream, line.data) for line in found) == [
        (1, b"one\n"),
        (1, b"three\n"),
        (2, b"two\n"),
    ]
    assert [line.data for line in await lines(runtime, "la", tail=1)] == [b"three\n"]
    assert [line.data for line in await lines(runtime, "la", stdout=False)] == [b"two\n"]
    last = found[-1].at_ns
    assert [line.data for line in await lines(runtime, "la", since_ns=last)] == [b"three\n"]
    assert len(await lines(runtime, "la", until_ns=last - 1)) == 2


@pytest.mark.docker_engine
async def test_follow_goes_on_until_the_task_has_ended(runtime):
    task = shell("lb", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    await begin(runtime, task)
    assert [line.data for line in await lines(runtime, "lb", follow=True)] == [
        b"1\n",
        b"2\n",
        b"3\n",
    ]


@pytest.mark.docker_engine
async def test_reader_that_leaves_ends_its_stream_alone(runtime):
    task = shell("lc", "while :; do echo x; sleep 0.01; done")
    await begin(runtime, task)
    reading = runtime.logs(task.id, LogOptions(follow=True))
    assert (await anext(reading)).data == b"x\n"
    await reading.aclose()
    async with asyncio.timeout(5):
        assert (await runtime.stop(task.id, "SIGTERM", 0)).exit_code == 137


@pytest.mark.docker_engine
async def test_terminals_output_comes_as_stdout(runtime):
    task = shell("ld", "echo one; echo two >&2; head -c 20000 /dev/zero | tr '\\0' y", tty=True)
    await begin(runtime, task)
    await runtime.wait(task.id)
    found = await lines(runtime, "ld")
    assert {line.stream for line in found} == {1}
    assert all(line.at_ns > 0 for line in found)
    assert [line.data for line in found[:2]] == [b"one\r\n", b"two\r\n"]


@pytest.mark.docker_engine
async def test_long_line_comes_in_parts(runtime):
    task = shell("le", "seq -s x 1 8000; echo end")
    await begin(runtime, task)
    await runtime.wait(task.id)
    found = await lines(runtime, "le")
    assert len(found) > 2
    assert [line.data.endswith(b"\n") for line in found[-2:]] == [True, True]
    assert b"".join(line.data for line in found).count(b"\n") == 2


@pytest.mark.docker_engine
async def test_logs_that_cannot_be_read_say_why(runtime):
    with pytest.raises(RuntimeProblemError, match="not on this node"):
        await lines(runtime, "nobody")
    made = shell("lf", "echo x")
    spec = made.spec
    task = msgspec.structs.replace(
        made, spec=msgspec.structs.replace(spec, log_driver=Driver(name="none"))
    )
    await begin(runtime, task)
    await runtime.wait(task.id)
    with pytest.raises(RuntimeProblemError, match="does not support reading"):
        await lines(runtime, "lf")
