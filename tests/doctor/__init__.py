"""Tests of the probes: judges by table, the rest on this machine."""
