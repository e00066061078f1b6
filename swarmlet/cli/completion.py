"""`swarmlet completion`."""

import click

from swarmlet.cli.lazy import example

VARIABLE = "_SWARMLET_COMPLETE"


@click.command(
    epilog=example(
        'eval "$(swarmlet completion bash)"                       # in ~/.bashrc',
        'eval "$(swarmlet completion zsh)"                        # in ~/.zshrc',
        "swarmlet completion fish > ~/.config/fish/completions/swarmlet.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that completes commands, flags and names in a shell."""
    from click.shell_completion import get_completion_class

    root = ctx.find_root().command
    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(root, {}, "swarmlet", VARIABLE).source())
