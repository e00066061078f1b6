"""The replicated log: one member of a Raft group, durable, sealed, driven in the asyncio loop.

Owns `DATA/raft/`: `journal` (term, vote, entries, members) and `snapshot` (the state machine,
whole); nobody else writes there. `engine` fulfils store.proposer.RaftLog, `driver` is its loop,
`core` what moves in it; `hardening` holds PySyncObj and all that is corrected in it, and alone
imports it. `journal`, `snapshots` and `membership` are what survives; `peers` is the way to other
members; `reads`, `member_changes`, `transfer`, `catch_up`, `compaction` and `key_rotation` are what
callers and other members wait for. docs/design/raft.md says which file has what.

After a crash at any instant: every acknowledged entry is there, in its place; an entry that was not
acknowledged is there whole or not at all; a vote once given is remembered. Data that a crash cannot
explain (rot, a missing file, another key or format) stops the member with DamagedError: it never
guesses. A write or fsync that fails is fatal; a full disk is not: proposals are refused or another
member leads meanwhile, and it goes on by itself.
"""
