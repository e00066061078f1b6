"""As whom a task runs: an account of its own from a range, one the spec names, or the daemon's."""

import grp
import os
import pwd
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

from swarmlet.runtime.base import RuntimeProblemError

OWN_UID_MIN: Final = 100_000  # above every account a distribution makes by itself
OWN_UID_COUNT: Final = 65_536
_NO_ROOT: Final = "Start the daemon with --allow-root-tasks if its tasks may have root's power."


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who a task is to the kernel."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()
    home: str = "/"


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountRules:
    """What a daemon lets its tasks be."""

    uid: int
    allow_root: bool = False
    own_min: int = OWN_UID_MIN
    own_count: int = OWN_UID_COUNT


def find_account(user: str, groups: Sequence[str], rules: AccountRules) -> Account | None:
    """The account a spec asks for; None: one of the task's own. Raises RuntimeProblemError.

    Forms as in Docker: `name`, `uid`, `name:group`, `uid:gid`. Only accounts this host knows.
    """
    if rules.uid != 0:
        return _ours(user, groups, rules.uid)
    if not user:
        if groups:
            raise RuntimeProblemError(
                "Additional groups need a user: a task of its own account is in no other group.",
                remedy="Name a user too (--user), or leave out --group.",
            )
        return None
    name, _, group = user.partition(":")
    entry = _passwd(name)
    gid = _gid(group) if group else entry.pw_gid
    more = {_gid(name) for name in groups}
    if not group:
        more.update(os.getgrouplist(entry.pw_name, gid))
    _refuse_power(user, entry.pw_uid, sorted({gid, *more}), rules)
    return Account(
        uid=entry.pw_uid, gid=gid, groups=tuple(sorted({gid, *more})), home=entry.pw_dir or "/"
    )


def _ours(user: str, groups: Sequence[str], uid: int) -> Account:
    """An ordinary user's daemon runs everything as that user."""
    entry = _known_uid(uid)
    name = entry.pw_name if entry else str(uid)
    gid = str(entry.pw_gid) if entry else ""
    if user not in ("", name, str(uid), f"{uid}:{gid}", f"{name}:{gid}"):
        raise RuntimeProblemError(
            f'This node\'s daemon runs as {name}, so it cannot start a task as user "{user}".',
            remedy="Leave out --user, or run the daemon as root.",
        )
    if groups:
        raise RuntimeProblemError(
            f"This node's daemon runs as {name}, so it cannot give a task additional groups.",
            remedy="Leave out --group, or run the daemon as root.",
        )
    return Account(uid=uid, gid=entry.pw_gid if entry else uid, home=entry.pw_dir if entry else "/")


def _known_uid(uid: int) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        return None


def _passwd(name: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        raise RuntimeProblemError(
            f'This node has no account "{name}".',
            remedy="Leave out --user: each task then gets an account of its own.",
        ) from None


def _gid(name: str) -> int:
    try:
        return grp.getgrgid(int(name)).gr_gid if name.isdecimal() else grp.getgrnam(name).gr_gid
    except (KeyError, OverflowError):
        raise RuntimeProblemError(
            f'This node has no group "{name}".', remedy="Name a group of this node."
        ) from None


def _refuse_power(user: str, uid: int, gids: Sequence[int], rules: AccountRules) -> None:
    if (uid == 0 or 0 in gids) and not rules.allow_root:
        what = "root" if uid == 0 else "a member of root's group"
        raise RuntimeProblemError(
            f'User "{user}" is {what}, and this node runs no task with root\'s power.',
            remedy=_NO_ROOT,
        )
    if rules.own_min <= uid < rules.own_min + rules.own_count:
        raise RuntimeProblemError(
            f'User "{user}" is uid {uid}, in the range each of which belongs to one task.',
            remedy=f"Name an account outside {rules.own_min} to "
            f"{rules.own_min + rules.own_count - 1}.",
        )


def choose_own_uid(task_id: str, taken: Collection[int], rules: AccountRules) -> int:
    """A uid no other task has and no account of this host: from the task's id, then the next free.

    So the uid of a task that ended is not the next one's: files it left behind stay its own.
    """
    start = zlib.crc32(task_id.encode()) % rules.own_count
    for step in range(rules.own_count):
        uid = rules.own_min + (start + step) % rules.own_count
        if uid not in taken and _known_uid(uid) is None:
            return uid
    raise RuntimeProblemError(
        f"All {rules.own_count} uids for tasks from {rules.own_min} on are in use.",
        remedy="Remove services from this node.",
    )
