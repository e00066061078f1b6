"""The store: what the cluster is, in memory, driven by the log.

Tables of frozen rows with indexes (`tables`, `schema`), views of them (`memory`), transactions
encoded as log entries (`codec`), and one place that works out what an entry does (`apply`,
`guards`, `refusal`). `history` has what happened, for days.

Who writes what: `Store.apply` is the only writer of the tables, the index, the history and the
remembered outcomes, and deterministic: no clock, no chance, the proposer stamps. Each entry happens
whole or not at all; a row's version is the index of the entry that wrote it. The last 10,000
proposals are remembered with what became of them, refusals included, so a proposal that is repeated
is applied once and answered the same.

Many in flight (`flight`): the law is apply, in log order. Before it is proposed, a transaction is
worked out on what is applied plus what is in flight. Refused on what is applied: raised at once.
Refused only because of something in flight: no answer is given before that is durable (it might
never be), then it is looked at again, without an entry spent. A row in flight has minus its
proposal's id as version; a later change may name that as `seen`, and apply finds in the outcomes
which index it became, or refuses.

After a crash the store is what snapshot and log say: nothing here is kept outside of them.
"""
