"""Runtime adapters: how a node turns an assigned task into something that runs.

`base` is the one protocol; an adapter owns the translation to its engine and nothing else. What an
adapter started outlives the daemon; `list_tasks` finds it again after a restart.
"""
