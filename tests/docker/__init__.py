"""Tests against a real Docker Engine, and the engine they run."""
