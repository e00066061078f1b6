"""The scheduler's specification: every task by itself, every node looked at, the full key compared.

Nothing is shared with the scheduler but the order in which groups take their turns; the filters are
written apart on purpose. Ties end in the id, so the two must agree exactly.
"""

from collections import Counter, defaultdict

from swarmlet.model.node import RUNTIME_LABEL, NodeState
from swarmlet.model.task import TaskState
from swarmlet.reconcile.scheduler.group import Group
from tests.reconcile.world import World

WINDOW_MS, FAILURES_MIN = 300_000, 5
ARCH = {"x86_64": "amd64", "aarch64": "arm64"}


def is_waiting(task) -> bool:
    return (
        task.status.state == TaskState.PENDING
        and not task.node_id
        and task.desired <= TaskState.COMPLETE
    )


def label(node, key: str) -> str:
    """The only keys the histories use: node.labels.X, engine.labels.X and node.id."""
    room, _, name = key.partition(".labels.")
    if not name:
        assert key == "node.id"
        return node.id
    labels = node.spec.labels if room == "node" else node.description.engine.labels
    return labels.get(name, "")


def limits(template) -> set[str]:
    """The histories limit nothing but these two."""
    limit = template.resources.limits if template.resources else None
    if limit is None:
        return set()
    amounts = {"cpu": limit.nano_cpus, "memory": limit.memory_bytes}
    return {name for name, amount in amounts.items() if amount}


def lacking_runtime(node, template) -> str:
    labels = node.description.engine.labels
    names = ["process"] if template.container_spec.image == "host" else ["docker", "oci"]
    has = [name for name in names if name in labels[RUNTIME_LABEL].split(",")]
    held = [labels.get(f"swarmlet.limits.{name}") for name in has]
    able = [text is None or limits(template) <= set(text.split(",")) for text in held]
    return "" if any(able) else "limit" if has else "runtime"


def failing(node, spec) -> str:
    """The first filter of the node's own row that fails, or ""."""
    template = spec.task_template
    if node.status.state != NodeState.READY or node.spec.availability not in ("", "active"):
        return "not available for new tasks"
    if lacking := lacking_runtime(node, template):
        return lacking
    for kind, name in plugins(spec):
        offered = [p for p in node.description.engine.plugins if p.type == kind]
        if kind == "Log" and not offered:
            continue
        has_any = bool(node.description.engine.plugins)
        if has_any and not {name, f"{name}:latest"} & {p.name for p in offered}:
            return "missing plugin"
    placement = template.placement
    for text in placement.constraints:
        key, want = (part.strip() for part in text.replace("!=", "==").split("=="))
        if key == "service":
            continue
        if (label(node, key).lower() == want.lower()) == ("!=" in text):
            return "scheduling constraints not satisfied"
    platform = node.description.platform
    arch = ARCH.get(platform.architecture, platform.architecture)
    if placement.platforms and not any(
        p.os in ("", platform.os) and ARCH.get(p.architecture, p.architecture) in ("", arch)
        for p in placement.platforms
    ):
        return "unsupported platform"
    return ""


def wishes(texts):
    """[(service, whether it is wanted there)] of constraints, or of what is spread over."""
    found = set()
    for text in texts:
        key, want = (part.strip() for part in text.replace("!=", "==").split("==", 1))
        if key == "service":
            found.add((want, "!=" not in text))
    return found


def plugins(spec):
    template = spec.task_template
    found = [("Log", template.log_driver.name)] if template.log_driver else []
    volumes = [m.volume_options.driver_config.name for m in template.container_spec.mounts]
    found += [("Volume", name) for name in volumes]
    return [(kind, name) for kind, name in found if name not in ("none", "local")]


def named(resources):
    """[(kind, name)] of the generic resources that have a name."""
    pairs = (r.named_resource_spec for r in resources if r.named_resource_spec)
    return [(pair.kind, pair.value) for pair in pairs]


def descriptors(spec):
    preferences = spec.task_template.placement.preferences
    return [p.spread.spread_descriptor for p in preferences]


def is_packed(spec) -> bool:
    return spec.labels.get("swarmlet.strategy") == "binpack"


def wants(spec) -> Counter:
    """Resources by name, ports among them: each node has one of every port."""
    reserved = spec.task_template.resources.reservations
    counts = Counter(cpu=reserved.nano_cpus, memory=reserved.memory_bytes)
    for resource in reserved.generic_resources:
        counts[resource.discrete_resource_spec.kind] += resource.discrete_resource_spec.value
    for port in spec.endpoint_spec.ports if spec.endpoint_spec else ():
        if port.publish_mode == "host" and port.published_port:
            counts[port.protocol or "tcp", port.published_port] = 1
    return +counts


class Brute:
    """The cluster counted anew from its rows, and changed only by what is placed here."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.nodes = {n.id: n for n in world.nodes.all()}
        self.free = {n.id: self._capacity(n) for n in self.nodes.values()}
        self.total = Counter()
        self.of_service = defaultdict(Counter)
        self.failures = Counter()
        self.held = defaultdict(list)  # node -> (kind, name) of generic resources tasks have
        self.given = {}  # task -> what it gets of them, once it is placed here
        self._wants: dict[int, Counter] = {}
        for task in world.tasks.all():
            self._count(task)

    def _capacity(self, node) -> Counter:
        resources = node.description.resources
        free = Counter(cpu=resources.nano_cpus, memory=resources.memory_bytes)
        for resource in resources.generic_resources:
            if resource.named_resource_spec:
                free[resource.named_resource_spec.kind] += 1
            else:
                free[resource.discrete_resource_spec.kind] += resource.discrete_resource_spec.value
        return free

    def _count(self, task) -> None:
        state, node_id = task.status.state, task.node_id
        if not node_id:
            return
        key = (task.service_id, task.spec_version)
        if state in (TaskState.FAILED, TaskState.REJECTED):
            recent = task.status.applied_at_ms > self.world.now_ms - WINDOW_MS
            self.failures[key, node_id] += recent
        if node_id in self.nodes and TaskState.ASSIGNED <= state <= TaskState.RUNNING:
            spec = self.world.specs.get(f"{key[0]}@{key[1]}").spec
            self.hold(node_id, task.service_id, spec, task.desired <= TaskState.COMPLETE)
            self.held[node_id] += named(task.generic_resources)

    def wants(self, spec) -> Counter:
        if id(spec) not in self._wants:
            self._wants[id(spec)] = wants(spec)
        return self._wants[id(spec)]

    def hold(self, node_id, service_id, spec, is_active) -> None:
        self.free[node_id].subtract(self.wants(spec))
        self.total[node_id] += is_active
        self.of_service[service_id][node_id] += is_active

    def lacking(self, node_id, service_id, spec, *, with_limit=True) -> str:
        for name, count in self.wants(spec).items():
            have = self.free[node_id][name]
            if isinstance(name, tuple):
                if have < 0:
                    return "host-mode port already in use"
            elif have < count:
                return "insufficient resources"
        if with_limit and self.unmet(node_id, spec.task_template.placement.constraints):
            return "services asked for are not there, or unwanted ones are,"
        limit = spec.task_template.placement.max_replicas
        if with_limit and limit and self.of_service[service_id][node_id] >= limit:
            return "max replicas per node limit exceed"
        return ""

    def unmet(self, node_id, texts) -> int:
        """How many wishes with regard to services do not hold on the node."""
        return sum(
            (self.of_service[service][node_id] > 0) != is_wanted
            for service, is_wanted in wishes(text for text in texts if "==" in text or "!=" in text)
        )

    def rank(self, node_id, spec):
        if not is_packed(spec):
            return (self.total[node_id],)
        has, free = self._capacity(self.nodes[node_id]), self.free[node_id]
        full = sum((has[k] - free[k]) * 1000 // has[k] for k in ("cpu", "memory") if has[k])
        return (-full, -self.total[node_id])

    def turns(self):
        """[(group key, spec, [(task id, node id)], tasks left)] in the order of the turns."""
        groups = defaultdict(list)
        for task in self.world.tasks.all():
            if is_waiting(task):
                groups[task.service_id, task.spec_version].append((task.slot, task.id))
        specs = {key: self.world.specs.get(f"{key[0]}@{key[1]}").spec for key in groups}
        todo, left = list(groups), []
        while todo:
            key = min(todo, key=lambda k: Group(k, specs[k]).sort_key)
            todo.remove(key)
            ids = [task_id for _, task_id in sorted(groups[key])]
            placed = self.place(key, specs[key], ids)
            groups[key] = sorted(groups[key])[len(placed) :]
            yield key, specs[key], placed, ids[len(placed) :]
            left.append(key)
            if placed:  # who must be beside this service may have found a node
                again = [
                    k
                    for k in left
                    if groups[k]
                    and (key[0], True) in wishes(specs[k].task_template.placement.constraints)
                ]
                left = [k for k in left if k not in again]
                todo += again

    def place(self, key, spec, ids):
        service_id, spread = key[0], self._spread(spec)
        passing = [n for n in sorted(self.nodes) if not failing(self.nodes[n], spec)]
        paths = {n: tuple(label(self.nodes[n], k) for k in spread) for n in self.nodes}
        first = {}  # branch -> its emptiest node with room as the turn begins: ties go there
        able = (n for n in passing if not self.lacking(n, service_id, spec, with_limit=False))
        for n in sorted(able, key=lambda n: (self.rank(n, spec), n)):
            for depth in range(len(spread)):
                first.setdefault(paths[n][: depth + 1], (self.rank(n, spec), n))
        placed = []
        for task_id in ids:
            best = self._best(key, spec, passing, paths, first)
            if best is None:
                break
            self.hold(best, service_id, spec, True)
            self.given[task_id] = self._give(best, spec)
            placed.append((task_id, best))
        return placed

    def _give(self, node_id, spec):
        """(kind, name or number) for each generic resource the task reserves."""
        has = self.nodes[node_id].description.resources.generic_resources
        given = []
        for resource in sorted(
            spec.task_template.resources.reservations.generic_resources, key=str
        ):
            kind, count = (
                resource.discrete_resource_spec.kind,
                resource.discrete_resource_spec.value,
            )
            names = [pair for pair in named(has) if pair[0] == kind]
            free = [pair for pair in names if pair not in self.held[node_id]]
            given += free[:count] if names else [(kind, count)]
        self.held[node_id] += [pair for pair in given if isinstance(pair[1], str)]
        return given

    def _best(self, key, spec, passing, paths, first):
        mine = self.of_service[key[0]]
        able = [n for n in passing if not self.lacking(n, key[0], spec)]
        under = list(self.nodes)
        for depth in range(1, 1 + len(self._spread(spec))):
            branches = {paths[n][:depth] for n in able}
            if not branches:
                return None
            pick = min(
                branches,
                key=lambda b: (sum(mine[n] for n in under if paths[n][: len(b)] == b), first[b]),
            )
            under = [n for n in under if paths[n][:depth] == pick]
            able = [n for n in able if paths[n][:depth] == pick]

        def order(n):
            failures = self.failures[key, n]
            return (
                failures if failures >= FAILURES_MIN else 0,
                self.unmet(n, descriptors(spec)),
                0 if is_packed(spec) else mine[n],
                self.rank(n, spec),
                n,
            )

        return min(able, key=order, default=None)

    def _spread(self, spec):
        return [key for key in descriptors(spec) if ".labels." in key]

    def reason(self, key, spec) -> str:
        """Why nothing more of a group fits."""
        counts = Counter()
        for n, node in self.nodes.items():
            counts[failing(node, spec) or self.lacking(n, key[0], spec)] += 1
        assert not counts[""], counts
        order = [
            "not available for new tasks",
            "runtime",
            "limit",
            "missing plugin",
            "scheduling constraints not satisfied",
            "unsupported platform",
            "insufficient resources",
            "host-mode port already in use",
            "services asked for are not there, or unwanted ones are,",
            "max replicas per node limit exceed",
        ]
        parts = []
        for text in sorted(+counts, key=lambda t: (-counts[t], order.index(t))):
            nodes = f"{counts[text]} node" + "s" * (counts[text] > 1)
            if text == order[0]:
                parts.append(f"{nodes} {text}")
            elif text == "runtime":
                is_host = spec.task_template.container_spec.image == "host"
                names = "process" if is_host else "docker or oci"
                parts.append(f"no {names} runtime, which the image needs, on {nodes}")
            elif text == "limit":
                names = " and ".join(
                    name for name in ("cpu", "memory") if name in limits(spec.task_template)
                )
                parts.append(f"no runtime that can limit {names} on {nodes}")
            else:
                parts.append(f"{text} on {nodes}")
        return "no suitable node" + (f" ({'; '.join(parts)})" if parts else "")
