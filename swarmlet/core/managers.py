"""How many managers are wise, in sentences: for `info`, and for who changes their number."""

from typing import Final

MANAGERS_ADVISED_MAX: Final = 7
"""More managers make every write slower and the swarm no safer; Docker advises the same."""


def manager_warnings(managers: int) -> list[str]:
    """What is unwise about this number of managers, in sentences; empty where nothing is."""
    if managers > MANAGERS_ADVISED_MAX:
        return [
            f"WARNING: {managers} managers are more than {MANAGERS_ADVISED_MAX}: every write "
            "waits for more of them, and nothing is safer."
        ]
    if managers == 2:
        return [
            "WARNING: Running Swarm in a 2-manager configuration: the loss of either one stops all "
            "changes. Add a third."
        ]
    if managers > 0 and managers % 2 == 0:
        return [
            f"WARNING: Running Swarm in a {managers}-manager configuration: an even number "
            f"survives the loss of no more managers than {managers - 1} do."
        ]
    return []
