"""The drill's own PostgreSQL servers, under the name that the tests of this folder use."""

from bursar.drill.cluster import FAST, OWNER, Cluster, MissingError, binaries, shared

__all__ = ["FAST", "OWNER", "Cluster", "MissingError", "binaries", "shared"]
