"""The allocator: gives tasks and services what they need of the network before they are placed.

Owns the step from NEW to PENDING and a service's `endpoint`. What is here: tasks that need no
address of the swarm's (no network, or networks that each node has for itself) pass at once, and
ports in host mode are taken over into the endpoint as they stand. A task that needs more becomes
PENDING with the reason and is not placed (`needs.missing`). Nothing is kept in memory.
"""
