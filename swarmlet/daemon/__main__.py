"""`python -m swarmlet.daemon`, which `swarmlet daemon` becomes."""

from swarmlet.daemon.main import run

run()
