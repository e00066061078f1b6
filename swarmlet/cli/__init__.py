"""The `swarmlet` command: one file a noun, docker's verbs, flags, columns and sentences.

Owns no state: everything is asked of the daemon over its unix socket (`client`), nothing is read
from its data directory. A listing must answer in a moment, so nothing is imported before it is
needed: groups are lazy (`lazy`), and on the way of a plain listing only click, json and a socket
are loaded (`tests/cli/test_start.py` holds the list). After a crash or a Ctrl-C there is nothing to
repair: what was accepted goes on in the cluster, what was not never happened.

Results go to stdout, everything said beside them to stderr. Exit codes are in `errors`.
"""
