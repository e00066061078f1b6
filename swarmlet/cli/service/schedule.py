"""When a job that has a schedule runs next, for people."""

from swarmlet.cli.client import Client, Object, quote


def path_of(service: Object) -> str:
    return f"/swarmlet/v1/services/{quote(service['ID'])}/runs"


def schedule_line(schedule: Object) -> str:
    """When it runs next, for people."""
    if schedule["Problem"]:
        return f"It does not run: {schedule['Problem']}."
    when = "none" if schedule["NextRun"] is None else f"{stamp_of(schedule['NextRun'])} UTC"
    return f"Schedule: {schedule['Expression']} ({schedule['TimeZone']}), next run: {when}"


def next_run(client: Client, service: Object) -> str:
    """The same of a job that has a schedule, unless it has lost it meanwhile."""
    schedule = client.get(path_of(service))["Schedule"]
    return schedule_line(schedule) if schedule else "Schedule: none"


def stamp_of(stamp: str | None) -> str:
    """2026-11-23 12:00:00 of an RFC 3339 stamp, in UTC."""
    return (stamp or "").partition(".")[0].rstrip("Z").replace("T", " ")
