"""Ids, errors, limits, and what both ends of the API agree on: the words every other room uses.

Imports nothing of swarmlet and touches nothing of the world. What is here is pure, total and tiny.
"""
