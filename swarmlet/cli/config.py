"""`swarmlet config`."""

from binascii import a2b_base64
from typing import Final

import click

from swarmlet.cli import stored_data
from swarmlet.cli.client import Client, Json, Object
from swarmlet.cli.lazy import LazyGroup, example
from swarmlet.cli.names import complete_config
from swarmlet.cli.options import (
    filter_option,
    format_option,
    inspect_format_option,
    pretty_option,
    quiet_option,
)
from swarmlet.cli.output import check_pretty_alone, for_each, inspect
from swarmlet.cli.stale import may_be_stale
from swarmlet.core.limits import CONFIG_DATA_SIZE_MAX_B

KIND: Final = stored_data.Kind(
    name="config",
    path="/configs",
    size_max_b=CONFIG_DATA_SIZE_MAX_B,
    headings={
        "ID": "ID",
        "Name": "NAME",
        "CreatedAt": "CREATED",
        "UpdatedAt": "UPDATED",
        "Labels": "LABELS",
    },
)

config: Final = LazyGroup(
    "config",
    lazy={
        "create": "config:create",
        "ls": "config:ls",
        "inspect": "config:show",
        "rm": "config:rm",
    },
    text="Keep configs in the cluster: files that services need and anybody may read.",
    epilog=example("swarmlet config create nginx-conf ./nginx.conf", "swarmlet config ls"),
)


@click.command(
    epilog=example(
        "swarmlet config create nginx-conf ./nginx.conf", "generate | swarmlet config create NAME -"
    )
)
@click.argument("name")
@click.argument("file", metavar="[FILE|-]", default="")
@click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="A label.")
@click.option(
    "--template-driver", default="", metavar="NAME", help="golang: expand templates in it."
)
@click.pass_obj
def create(client: Client, /, *, name: str, file: str, **options: Json) -> None:
    """Store a config from a file or stdin."""
    stored_data.create(client, KIND, name, file, options)


@click.command("ls", epilog=example("swarmlet config ls --filter name=web"))
@filter_option
@format_option
@quiet_option
@click.pass_obj
@may_be_stale
def ls(client: Client, *, filters: tuple[str, ...], form: str, quiet: bool) -> None:
    """List the configs."""
    stored_data.list_all(client, KIND, filters, form=form, quiet=quiet)


@click.command("rm", epilog=example("swarmlet config rm NAME"))
@click.argument("names", nargs=-1, required=True, shell_complete=complete_config)
@click.pass_obj
def rm(client: Client, *, names: tuple[str, ...]) -> None:
    """Remove configs that no service uses."""
    for_each(names, lambda name: stored_data.remove(client, KIND, name))


@click.command("inspect", epilog=example("swarmlet config inspect --pretty NAME"))
@click.argument("names", nargs=-1, required=True, shell_complete=complete_config)
@inspect_format_option
@pretty_option
@click.pass_obj
@may_be_stale
def show(client: Client, *, names: tuple[str, ...], form: str, pretty: bool) -> None:
    """Show configs, their bytes included (base64; readable with --pretty)."""
    check_pretty_alone(form, pretty=pretty)
    printer = print_config if pretty else None
    inspect(names, lambda name: stored_data.find(client, KIND, name), form, printer)


def print_config(found: Object) -> None:
    """Print one config as docker's --pretty does."""
    content = a2b_base64(found["Spec"].get("Data") or "").decode("utf-8", "replace")
    click.echo("\n".join([*stored_data.pretty_lines(found), "Data:", content, ""]))
