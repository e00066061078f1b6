"""The leader's own node renews through the CA in its process, with the node's real renewer."""

from pathlib import Path

import pytest

from swarmlet.ca.issuer import Subject, issue
from swarmlet.ca.key_file import new_node_keys
from swarmlet.ca.keys import new_key
from swarmlet.ca.node_files import NodeFiles
from swarmlet.ca.renewer import Renewer
from swarmlet.core.errors import UnavailableError
from swarmlet.core.limits import NODE_CERT_EXPIRY_NS
from swarmlet.model.node import IssuanceState
from tests.agent.virtual_time import START_MS
from tests.manager.authority_world import ROOT, Fleet, entropy, play


def own_files(directory: Path, fleet: Fleet) -> NodeFiles:
    key = new_key(entropy)
    leaf = issue(
        ROOT,
        key.public_key(),
        Subject("manager", "manager", "cluster"),
        now_ms=START_MS,
        expiry_ns=NODE_CERT_EXPIRY_NS,
        entropy=entropy,
    )
    files = NodeFiles(fleet.env.disk, str(directory / "certificates"))
    files.write(ROOT.cert_pem, leaf, new_node_keys(key, bytes(32), bytes(32)))
    return files


@pytest.mark.parametrize("days", [0, 45, 89, 91, 3_650])
def test_leaders_node_renews_itself_whenever_it_asks(tmp_path, days):
    async def story(fleet: Fleet) -> None:
        files = own_files(tmp_path, fleet)
        own = files.own_identity()
        before = own.identity
        fleet.sleep_days(days)
        source = fleet.server.source_of(fleet.node("manager").id)
        renewer = Renewer(fleet.env, files, own, source)
        await renewer.renew()
        assert own.identity.fingerprint != before.fingerprint
        assert own.identity.ends_ms > fleet.now_ms()
        assert files.identity() == own.identity
        assert fleet.node("manager").certificate.state == IssuanceState.ISSUED

    play(story)


def test_renewal_whose_entry_got_lost_is_repeated_with_the_same_key(tmp_path):
    async def story(fleet: Fleet) -> None:
        files = own_files(tmp_path, fleet)
        own = files.own_identity()
        source = fleet.server.source_of(fleet.node("manager").id)
        renewer = Renewer(fleet.env, files, own, source)
        fleet.log.fail_next("late")
        with pytest.raises(UnavailableError):
            await renewer.renew()
        pending = files.pending()
        assert pending is not None
        await renewer.renew()
        assert own.credentials.key_pem == pending.tls_key_pem
        assert fleet.server.gauges()["swarmlet_ca_issued_total"] == 1

    play(story)
