"""Tests of the store, and the log they drive it with."""
