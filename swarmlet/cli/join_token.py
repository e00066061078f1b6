"""`swarmlet join-token`: the swarm's own two tokens, and extra ones with bounds and labels."""

from itertools import takewhile
from typing import Final

import click

from swarmlet.cli.client import Client, Object, quote
from swarmlet.cli.format import expiry, natural
from swarmlet.cli.lazy import LazyGroup, example
from swarmlet.cli.options import format_option, pairs_of, quiet_option
from swarmlet.cli.output import Row, for_each, print_ids, print_rows
from swarmlet.cli.stale import may_be_stale
from swarmlet.cli.swarm import post_update
from swarmlet.cli.swarm_options import join_text, manager_address
from swarmlet.cli.units import DURATION_NS
from swarmlet.cli.world import wall_s

PATH: Final = "/swarmlet/v1/join-tokens"
HEADINGS: Final = {
    "ID": "ID",
    "Role": "ROLE",
    "Labels": "LABELS",
    "Expires": "EXPIRES",
    "Uses": "USES",
    "State": "STATE",
}

_FLAGS: Final = ("-q", "--quiet", "--rotate")

_rotate_option: Final = click.option(
    "--rotate", is_flag=True, help="Make a new token first; the old one ends."
)
_token_alone_option: Final = click.option(
    "-q", "--quiet", is_flag=True, help="Print the token alone."
)


class _JoinTokens(LazyGroup):
    """Takes docker's flags before the role as well: `join-token -q worker`."""

    def __init__(self) -> None:
        super().__init__(
            "join-token",
            lazy={
                "worker": "join_token:worker",
                "manager": "join_token:manager",
                "create": "join_token:create",
                "ls": "join_token:ls",
                "rm": "join_token:rm",
            },
            text="Print what another host needs to join, and make extra tokens with bounds.",
            epilog=example(
                "swarmlet join-token worker",
                "swarmlet join-token create --role worker --label zone=a --expires 24h --uses 3",
            ),
        )

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Flags before the role are the role's own."""
        before = list(takewhile(_FLAGS.__contains__, args))
        rest = args[len(before) :]
        return super().parse_args(ctx, [*rest[:1], *before, *rest[1:]] if rest else args)


join_token: Final = _JoinTokens()


@click.command(epilog=example("swarmlet join-token worker", "swarmlet join-token -q worker"))
@_rotate_option
@_token_alone_option
@click.pass_obj
def worker(client: Client, *, rotate: bool, quiet: bool) -> None:
    """Print the token with which other hosts join as workers."""
    _show(client, "worker", rotate=rotate, quiet=quiet)


@click.command(
    epilog=example("swarmlet join-token manager", "swarmlet join-token manager --rotate")
)
@_rotate_option
@_token_alone_option
@click.pass_obj
def manager(client: Client, *, rotate: bool, quiet: bool) -> None:
    """Print the token with which other hosts join as managers.

    Three managers survive the loss of one, five of two. An even number survives no more than the
    odd one below it.
    """
    _show(client, "manager", rotate=rotate, quiet=quiet)


def _show(client: Client, role: str, *, rotate: bool, quiet: bool) -> None:
    if rotate:
        post_update(client, client.get("/swarm"), **{f"rotate{role.capitalize()}Token": "true"})
        if not quiet:
            click.echo(f"Successfully rotated {role} join token.\n")
    _print_token(client, role, client.get("/swarm")["JoinTokens"][role.capitalize()], quiet=quiet)


def _print_token(client: Client, role: str, token: str, *, quiet: bool) -> None:
    click.echo(token if quiet else join_text(role, token, manager_address(client)))


@click.command(
    epilog=example(
        "swarmlet join-token create --role worker --label zone=a --expires 24h --uses 3",
        "swarmlet join-token create --expires 1h -q",
    )
)
@click.option(
    "--role",
    type=click.Choice(["worker", "manager"]),
    default="worker",
    show_default=True,
    help="What nodes join as.",
)
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="A label of every such node.")
@click.option(
    "--expires", type=DURATION_NS, metavar="DURATION", help="Ends after it: 24h; without it, never."
)
@click.option(
    "--uses", type=click.IntRange(min=1), metavar="N", help="How many nodes it lets in, at most."
)
@_token_alone_option
@click.pass_obj
def create(
    client: Client,
    *,
    role: str,
    label: tuple[str, ...],
    expires: int | None,
    uses: int | None,
    quiet: bool,
) -> None:
    """Make an extra token, which is told this once: the swarm keeps its hash alone."""
    if expires == 0:
        raise click.UsageError("--expires 0 has ended already; without it the token lasts.")
    body = {"Role": role, "Labels": pairs_of(label), "ExpiresIn": expires or 0, "Uses": uses or 0}
    made = client.post(PATH, body)
    if not quiet:
        click.echo(f"Join token {made['ID']} is made; it is shown this once.\n")
    _print_token(client, role, made["Token"], quiet=quiet)


@click.command("ls", epilog=example("swarmlet join-token ls"))
@format_option
@quiet_option
@click.pass_obj
@may_be_stale
def ls(client: Client, *, form: str, quiet: bool) -> None:
    """List the extra tokens, oldest first; never what they say."""
    found = client.get(PATH)
    if quiet and not form:
        print_ids(found)
        return
    now_s = wall_s()
    print_rows([_row(each, now_s) for each in found], HEADINGS, list(HEADINGS), form)


def _row(found: Object, now_s: float) -> Row:
    labels = found.get("Labels") or {}
    uses, most = found.get("Uses", 0), found.get("UsesMax", 0)
    return {
        "ID": found["ID"],
        "Role": found["Role"],
        "Labels": ",".join(f"{key}={labels[key]}" for key in sorted(labels, key=natural)),
        "Expires": expiry(found.get("ExpiresAt") or "", now_s) or "never",
        "Uses": f"{uses}/{most}" if most else str(uses),
        "State": found["State"],
    }


@click.command("rm", epilog=example("swarmlet join-token rm ID"))
@click.argument("ids", metavar="ID...", nargs=-1, required=True)
@click.pass_obj
def rm(client: Client, *, ids: tuple[str, ...]) -> None:
    """Remove extra tokens. Nodes that joined with them stay."""
    for_each(ids, lambda token_id: client.delete(f"{PATH}/{quote(token_id)}"))
