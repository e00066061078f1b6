"""The words for what nodes lack, and the command that would help."""

from typing import Final

from swarmlet.core.errors import InvalidArgumentError
from swarmlet.model.constraint import parse
from swarmlet.reconcile.why.answers import FilterCount, Lack, Nearest
from swarmlet.reconcile.why.words import amount, counted, listed

AS_ASKED: Final = ("drain", "pause")
"""What people said of a node, and can take back."""

_STATES: Final = {"drain": "drained", "pause": "paused", "unknown": "not heard of yet"}
_KINDS: Final = {"cpu": "CPU"}

_OF_ONE: Final = {
    "ready": "is {}",
    "runtime": "has no {} runtime",
    "limit": "has no runtime that can limit {}",
    "plugin": "has no {}",
    "constraint": "does not satisfy {}",
    "platform": "is not {}",
    "resource": "lacks {}",
    "host-port": "has port {} in use",
    "affinity": "does not satisfy {}",
    "max-replicas": "has {} of the service, as many as it allows on one",
}
_OF_MANY: Final = {"is": "are", "has": "have", "does": "do", "lacks": "lack"}


def count_words(count: FilterCount) -> str:
    """3 nodes are drained; 1 node lacks memory."""
    what = count.what
    if count.filter == "ready":
        what = _STATES.get(what, what)
    elif count.filter == "resource":
        what = _KINDS.get(what, what)
    verb, _, rest = _OF_ONE[count.filter].format(what).partition(" ")
    return f"{counted(count.nodes, 'node')} {verb if count.nodes == 1 else _OF_MANY[verb]} {rest}"


def lack_words(nearest: Nearest) -> str:
    """lacks only 200 MiB of memory; is drained and lacks 0.5 CPUs."""
    words = [_one_lack(lack) for lack in nearest.lacks]
    if len(words) == 1 and words[0].startswith("lacks "):
        return words[0].replace("lacks ", "lacks only ", 1)
    return listed(words)


def _one_lack(lack: Lack) -> str:
    what = lack.what
    if lack.filter == "ready":
        what = _STATES.get(what, what)
    elif lack.filter == "resource":
        what = amount(what, lack.missing)
    return _OF_ONE[lack.filter].format(what)


def remedy_for(nearest: Nearest, service_name: str) -> str:
    """What would help against the first of what the nearest node lacks."""
    lack, node = nearest.lacks[0], nearest.hostname
    update = "swarmlet service update"
    match lack.filter:
        case "ready":
            is_asked = lack.what in AS_ASKED
            verb = "update --availability active" if is_asked else "why"
            help_it = f"`swarmlet node {verb} {node}`"
        case "limit":
            flags = [f"--limit-{name} 0" for name in lack.what.split(" and ") if name != "swap"]
            help_it = "a runtime that can, as that of an image instead of `host`"
            if len(flags) == len(lack.what.split(" and ")):
                help_it += f", or `{update} {' '.join(flags)} {service_name}`"
        case "plugin":
            help_it = f"a node with the {lack.what}"
        case "constraint" | "affinity":
            help_it = _label_remedy(lack.what, node, service_name)
        case "resource":
            help_it = f"free {amount(lack.what, lack.missing)} on {node}, or reserve less"
            if flag := {"cpu": "--reserve-cpu", "memory": "--reserve-memory"}.get(lack.what):
                help_it += f": `{update} {flag} ... {service_name}`"
        case "max-replicas":
            help_it = f"another node, or `{update} --replicas-max-per-node N {service_name}`"
        case "host-port":
            help_it = f"another node, or another port than {lack.what}"
        case _:
            help_it = "a node that can run the image: `swarmlet join-token worker`"
    return help_it


def _label_remedy(text: str, node: str, service_name: str) -> str:
    rid = f"`swarmlet service update --constraint-rm '{text}' {service_name}`"
    try:
        constraint = parse(text)
    except InvalidArgumentError:
        return rid
    prefix, _, label = constraint.key.partition(".labels.")
    if prefix.lower() != "node" or not label or not constraint.is_equal:
        return rid
    return f"`swarmlet node update --label-add {label}={constraint.value} {node}`, or {rid}"
