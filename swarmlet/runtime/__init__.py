"""Runtime adapters: how a node turns an assigned task into something that runs.

`base` is the one protocol; an adapter owns the translation to its engine and nothing else. They
share `payload_folder` (secrets and configs on a tmpfs of the host) and `tcp` (connections to tasks'
ports). What an adapter started outlives the daemon; `list_tasks` finds it again after a restart.
"""
