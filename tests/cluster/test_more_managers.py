"""Five and seven managers: any minority of them may go, and not one more."""

import pytest

from tests.cluster.hosts import network
from tests.cluster.swarms import first_write, form_managers, leader_of, refusal
from tests.daemon.harness import wait_for

pytestmark = pytest.mark.timeout(180)


@pytest.mark.parametrize("count", [5, 7])
def test_more_managers_join_and_survive_the_loss_of_any_minority(count):
    names = [f"m{number}" for number in range(1, count + 1)]
    with network(*names) as net:
        form_managers(net)
        lost = [leader_of(net)]
        lost += [name for name in names if name not in lost][: (count - 1) // 2 - 1]
        for name in lost:
            net[name].kill()
        left = [name for name in names if name not in lost]
        for name in left:
            assert first_write(net[name], f"through-{name}") < 6.0
        net[left[0]].kill()
        needed = f"{len(left) - 1} of {count} managers"
        wait_for(lambda: needed in refusal(net[left[1]]), what="what is missing")
