"""The states of an update, and what each means. Words and messages are SwarmKit's.

    (none) --> updating --> completed
                  |-------> paused             too many tasks failed; goes on with the next update
                  '-------> rollback_started --> rollback_completed
                                  '------------> rollback_paused

Asked for by hand a rollback starts from any of them. `paused` and `rollback_paused` are rest.
"""

from typing import Final

from swarmlet.model.service import Service

UPDATING: Final = "updating"
PAUSED: Final = "paused"
COMPLETED: Final = "completed"
ROLLBACK_STARTED: Final = "rollback_started"
ROLLBACK_PAUSED: Final = "rollback_paused"
ROLLBACK_COMPLETED: Final = "rollback_completed"

UPDATE_BEGUN: Final = "update in progress"
UPDATE_COMPLETED: Final = "update completed"
ROLLBACK_ASKED: Final = "manually requested rollback"
ROLLBACK_ENDED: Final = "rollback completed"


def update_state(service: Service) -> str:
    """Empty where there was no update since the spec came."""
    return service.update_status.state if service.update_status is not None else ""


def is_updating(service: Service) -> bool:
    """Whether tasks are being replaced, forwards or back."""
    return update_state(service) in (UPDATING, ROLLBACK_STARTED)


def is_rolling_back(service: Service) -> bool:
    return update_state(service) == ROLLBACK_STARTED


def is_at_rest(service: Service) -> bool:
    """Whether no update is under way or waits for the next: the last one, if any, reached its
    end."""
    return update_state(service) in ("", COMPLETED, ROLLBACK_COMPLETED)
