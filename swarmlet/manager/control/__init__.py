"""The API's verbs: what a user may do to a cluster's objects.

A verb checks the request (`model/validate*`), finds what it names, refuses what is not built yet
(`model/unsupported`), and commits one transaction. Reads are linearizable. What a verb relies on is
guarded inside the transaction: an update carries the version the client saw, a reference carries
`Exists`, a removal `NotInUse`, a published port `PortFree`; so of two clients who contradict each
other exactly one is answered with success. Verbs write the specs of clusters, nodes, secrets,
configs and networks, plans of drains, the rows and spec versions of services and the join tokens,
and that the tasks of a removed node are orphans: nothing else.
An answer is given after the commit: what was acknowledged survives a crash; where nobody can say
whether it was committed, the error says just that and how to find out.
"""

from swarmlet.manager.control.cluster import ClusterVerbs
from swarmlet.manager.control.cluster import accepted_swarm as accepted_swarm
from swarmlet.manager.control.explanations import Explanations
from swarmlet.manager.control.job_runs import JobRunVerbs
from swarmlet.manager.control.join_tokens import JoinTokenCreated as JoinTokenCreated
from swarmlet.manager.control.join_tokens import JoinTokenVerbs
from swarmlet.manager.control.networks import NetworkVerbs
from swarmlet.manager.control.nodes import NodeVerbs
from swarmlet.manager.control.payloads import PayloadVerbs
from swarmlet.manager.control.rebalance import RebalanceVerbs
from swarmlet.manager.control.revisions import RevisionVerbs
from swarmlet.manager.control.revisions import revision_of as revision_of
from swarmlet.manager.control.services import ServiceCreated as ServiceCreated
from swarmlet.manager.control.status import ServiceStatus as ServiceStatus
from swarmlet.manager.control.status import ServiceStatuses as ServiceStatuses
from swarmlet.manager.control.status import desired_tasks as desired_tasks
from swarmlet.manager.control.status import service_status as service_status
from swarmlet.manager.control.streams import StreamVerbs


class Control(
    RevisionVerbs,
    JobRunVerbs,
    PayloadVerbs,
    NetworkVerbs,
    JoinTokenVerbs,
    NodeVerbs,
    RebalanceVerbs,
    ClusterVerbs,
    StreamVerbs,
    Explanations,
):
    """Every verb of the API on the cluster's objects. One a manager; writes need the leader."""
