"""What a Docker Engine answered to the docker CLI, asked again of swarmlet.

`commands.jsonl`: one command a line with every request it made and what was answered (Docker
Engine 29.8, docker CLI 28.2).
"""
