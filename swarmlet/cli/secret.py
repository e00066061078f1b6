"""`swarmlet secret`."""

from typing import Final

import click

from swarmlet.cli import stored_data
from swarmlet.cli.client import Client, Json, Object
from swarmlet.cli.lazy import LazyGroup, example
from swarmlet.cli.names import complete_secret
from swarmlet.cli.options import (
    filter_option,
    format_option,
    inspect_format_option,
    pretty_option,
    quiet_option,
)
from swarmlet.cli.output import check_pretty_alone, for_each, inspect
from swarmlet.cli.stale import may_be_stale
from swarmlet.core.limits import SECRET_DATA_SIZE_MAX_B

KIND: Final = stored_data.Kind(
    name="secret",
    path="/secrets",
    size_max_b=SECRET_DATA_SIZE_MAX_B,
    headings={
        "ID": "ID",
        "Name": "NAME",
        "Driver": "DRIVER",
        "CreatedAt": "CREATED",
        "UpdatedAt": "UPDATED",
        "Labels": "LABELS",
    },
)

secret: Final = LazyGroup(
    "secret",
    lazy={
        "create": "secret:create",
        "ls": "secret:ls",
        "inspect": "secret:show",
        "rm": "secret:rm",
    },
    text="Keep secrets in the cluster for services to use.",
    epilog=example("swarmlet secret create db-password ./password.txt", "swarmlet secret ls"),
)


@click.command(
    epilog=example(
        "swarmlet secret create db-password ./password.txt",
        "openssl rand -base64 20 | swarmlet secret create NAME -",
    )
)
@click.argument("name")
@click.argument("file", metavar="[FILE|-]", default="")
@click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="A label.")
@click.option("-d", "--driver", default="", metavar="NAME", help="The driver that has the secret.")
@click.option(
    "--template-driver", default="", metavar="NAME", help="golang: expand templates in it."
)
@click.pass_obj
def create(client: Client, /, *, name: str, file: str, **options: Json) -> None:
    """Store a secret from a file or stdin."""
    stored_data.create(client, KIND, name, file, options)


@click.command("ls", epilog=example("swarmlet secret ls --filter name=web"))
@filter_option
@format_option
@quiet_option
@click.pass_obj
@may_be_stale
def ls(client: Client, *, filters: tuple[str, ...], form: str, quiet: bool) -> None:
    """List the secrets."""
    stored_data.list_all(client, KIND, filters, form=form, quiet=quiet)


@click.command("rm", epilog=example("swarmlet secret rm NAME"))
@click.argument("names", nargs=-1, required=True, shell_complete=complete_secret)
@click.pass_obj
def rm(client: Client, *, names: tuple[str, ...]) -> None:
    """Remove secrets that no service uses."""
    for_each(names, lambda name: stored_data.remove(client, KIND, name))


@click.command("inspect", epilog=example("swarmlet secret inspect --pretty NAME"))
@click.argument("names", nargs=-1, required=True, shell_complete=complete_secret)
@inspect_format_option
@pretty_option
@click.pass_obj
@may_be_stale
def show(client: Client, *, names: tuple[str, ...], form: str, pretty: bool) -> None:
    """Show all but the bytes of secrets; those leave the cluster for a task alone."""
    check_pretty_alone(form, pretty=pretty)
    printer = print_secret if pretty else None
    inspect(names, lambda name: stored_data.find(client, KIND, name), form, printer)


def print_secret(found: Object) -> None:
    """Print one secret as docker's --pretty does."""
    click.echo("\n".join(stored_data.pretty_lines(found)))
