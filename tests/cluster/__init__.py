"""Hosts of their own on one machine: network namespaces behind a switch that can hurt them."""
