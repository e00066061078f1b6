"""`python -m swarmlet`."""

from swarmlet.cli.main import run

run()
