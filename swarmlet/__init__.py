"""swarmlet: Docker Swarm mode, rebuilt in Python."""
