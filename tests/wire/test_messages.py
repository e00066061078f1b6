"""What nodes say to each other, as it would be printed."""

import pytest

from swarmlet.wire.messages import (
    AssignedPayload,
    Assignments,
    ExecRequest,
    Item,
    OpenStream,
    StreamData,
    TaskStreamAsk,
)

PRECIOUS = "tr3asure"
RUN = ExecRequest(argv=("sh", "-c", f"log in {PRECIOUS}"), env=(f"KEY={PRECIOUS}",))
ITEM = Item(kind="secret", id="s1", body=PRECIOUS.encode())


@pytest.mark.parametrize(
    "message",
    [
        AssignedPayload(id="s1", name="key", data=PRECIOUS.encode()),
        Assignments(is_complete=True, applies_to=0, results_in=1, put=(ITEM,)),
        OpenStream(stream_id="x1", task_id="t1", request=RUN),
        TaskStreamAsk(task_id="t1", request=RUN, who="alice at m1"),
        StreamData(stream=0, data=PRECIOUS.encode()),
    ],
    ids=lambda message: type(message).__name__,
)
def test_message_that_may_hold_a_secret_does_not_show_it_when_it_is_printed(message: object):
    assert PRECIOUS not in repr(message)
