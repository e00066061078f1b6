"""Whom a member talks to, by what it remembers of the others."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarmlet.raft.acquaintance import (
    CLONE_REFUSED_S,
    CLONE_SILENCE_S,
    Acquaintance,
    Acquaintances,
    Live,
    Refusals,
)
from swarmlet.raft.hello import (
    CLONED,
    MARK,
    PING,
    RAFT_PROTOCOL,
    REMOVED,
    ROLLED_BACK,
    STRANGER,
    WELCOME,
    WRONG_MEMBER,
    Hello,
    Ping,
    Refusal,
    Welcome,
    decode_own,
    encode_own,
    is_own,
)
from swarmlet.raft.membership import Members
from swarmlet.store.proposer import Member

ME = Member(raft_id=1, node_id="m1", address="h1:1")
OTHER = Member(raft_id=2, node_id="m2", address="h2:1")
GROUP = Members(members=(ME, OTHER), removed=(9,))


def hello(**fields):
    given_ = {"sender": 2, "receiver": 1, "boot": 7, "term": 5, "last_index": 100, **fields}
    return Hello(**given_)


def judged(said, node_id="m2", known=None, live=None, group=GROUP):
    known = known or Acquaintances()
    refusal = known.judge(said, node_id, me=ME, members=group, live=live)
    return refusal and refusal.reason


def knowing(term=0, index=0):
    return Acquaintances([Acquaintance(raft_id=2, term=term, index=index)])


CASES = {
    "a member in its place": (None, hello(), {}),
    "one that has grown": (None, hello(), {"known": knowing(5, 99)}),
    "one just as it was": (None, hello(), {"known": knowing(5, 100)}),
    "one with an entry less": (ROLLED_BACK, hello(), {"known": knowing(5, 101)}),
    "one with an older term": (ROLLED_BACK, hello(), {"known": knowing(6, 1)}),
    "one that was removed": (REMOVED, hello(sender=9), {}),
    "one that nobody told us of": (None, hello(sender=4), {"node_id": "m4"}),
    "a node's second id, while we know its first": (None, hello(sender=4), {}),
    "another node's certificate": (WRONG_MEMBER, hello(), {"node_id": "m3"}),
    "one that looks for another": (WRONG_MEMBER, hello(receiver=3), {}),
    "one with our own id": (WRONG_MEMBER, hello(sender=1), {"node_id": "m1"}),
    "the next protocol": (None, hello(protocol=RAFT_PROTOCOL + 1), {}),
    "a protocol too new": (STRANGER, hello(protocol=RAFT_PROTOCOL + 2), {}),
    "the same boot again": (None, hello(), {"live": Live(boot=7, silent_s=0.0)}),
    "another boot of one that lives": (CLONED, hello(), {"live": Live(boot=8, silent_s=0.1)}),
    "another boot of one just heard": (
        CLONED,
        hello(),
        {"live": Live(boot=8, silent_s=CLONE_SILENCE_S)},
    ),
    "another boot of one that is silent": (
        None,
        hello(),
        {"live": Live(boot=8, silent_s=CLONE_SILENCE_S + 0.1)},
    ),
    "another boot with older data": (
        CLONED,
        hello(),
        {"live": Live(boot=8, silent_s=0.1), "known": knowing(9, 9)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_hello_is_judged_of(case):
    expected, said, world = CASES[case]
    assert judged(said, **world) == expected


def test_refusal_says_what_is_wrong_in_a_sentence():
    for reason, said, world in CASES.values():
        if reason is not None:
            known = world.get("known") or Acquaintances()
            refusal = known.judge(
                said, world.get("node_id", "m2"), me=ME, members=GROUP, live=world.get("live")
            )
            assert refusal.sentence.endswith(".")
            assert len(refusal.sentence) > 40


def test_member_that_is_gone_from_the_group_is_forgotten():
    known = knowing(50, 500)
    known.keep([1, 3])
    assert known.hints() == () == known.take_news()
    assert judged(hello(), known=known) is None


def test_news_are_told_once_and_hints_always():
    known = Acquaintances()
    known.saw_term(3, 4)
    known.acknowledged(2, 10, 8)
    known.acknowledged(2, 7, 9)  # less than before
    told = (Acquaintance(raft_id=2, index=8), Acquaintance(raft_id=3, term=4))
    assert known.take_news() == told == known.hints()
    assert known.take_news() == ()
    assert Acquaintances(told).take_news() == ()


def test_terms_and_indexes_are_learnt_apart():
    known = knowing(4, 10)
    known.saw_term(2, 6)
    known.acknowledged(2, 12, 20)
    known.saw_term(2, 5)
    known.acknowledged(2, 11, 20)
    assert known.of(2) == Acquaintance(raft_id=2, term=6, index=12)


def test_hints_travel_as_bytes():
    hints = (Acquaintance(raft_id=2**63 - 1, term=3, index=4),)
    raw = msgspec.msgpack.encode(hints)
    assert msgspec.msgpack.decode(raw, type=tuple[Acquaintance, ...]) == hints
    assert len(raw) < 20


# A member's life: what is on its disk only moves forward, but for entries that nobody committed.


class Life:
    """`matched`: how far its log is the leader's; beyond, entries may still be replaced."""

    def __init__(self):
        self.term, self.last, self.matched, self.commit = 1, 0, 0, 0
        self.reports = []  # of leaders, who knew this at one moment; they may come late

    def append(self, number):
        self.last += number

    def match(self, _):
        self.matched = self.last
        self.reports.append((self.matched, self.commit))

    def commit_to(self, number):
        self.commit += number
        self.reports.append((self.matched, self.commit))

    def elect(self, number):
        """Another leader: what was not committed may not be its."""
        self.term += number
        self.matched = min(self.matched, self.commit)

    def replace(self, number):
        self.last = max(self.matched, self.last - number)

    def hello(self):
        return hello(term=self.term, last_index=self.last, boot=self.term)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["append", "match", "commit_to", "elect", "replace", "hear", "meet", "lose"]
        ),
        st.integers(0, 5),
        st.integers(0, 2),
    ),
    max_size=60,
)


def live_on(steps, peers, life, heard):
    """What each peer says of the member when they meet; into `heard` goes what each peer must know
    since its last crash: term, index."""
    stored, verdicts = [()] * len(peers), []
    for verb, number, whom in steps:
        if verb == "hear" and life.reports:
            report = life.reports[number % len(life.reports)]
            peers[whom].acknowledged(2, *report)
            heard[whom] = heard[whom][0], max(heard[whom][1], min(report))
        elif verb == "meet":
            verdicts.append(judged(life.hello(), known=peers[whom]))
            peers[whom].saw_term(2, life.term)
            heard[whom] = life.term, heard[whom][1]
        elif verb == "lose":  # the peer crashes, and has of its hints what it wrote some time ago
            stored[whom], peers[whom] = peers[whom].hints(), Acquaintances(stored[whom])
            heard[whom] = 0, 0
        elif verb != "hear":
            getattr(life, verb)(number)
    return verdicts


@settings(max_examples=300, deadline=None)
@given(STEPS)
def test_member_that_only_moves_forward_is_never_taken_for_rolled_back(steps):
    peers = [Acquaintances() for _ in range(3)]
    assert not any(live_on(steps, peers, Life(), [(0, 0)] * 3))


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(0, 20), st.integers(0, 3))
def test_member_that_lost_what_it_acknowledged_is_refused_by_every_peer_that_heard(
    steps, lost_entries, lost_terms
):
    peers, life, heard = [Acquaintances() for _ in range(3)], Life(), [(0, 0)] * 3
    live_on(steps, peers, life, heard)
    back = hello(term=life.term - lost_terms, last_index=max(0, life.last - lost_entries))
    for peer, (term, index) in zip(peers, heard, strict=True):
        if back.last_index < index or back.term < term:
            assert judged(back, known=peer) == ROLLED_BACK


@given(st.permutations([(5, 9), (7, 3), (9, 9), (2, 2)]), st.integers(0, 3))
def test_reports_add_up_in_any_order(reports, restart_at):
    known = Acquaintances()
    for number, report in enumerate(reports):
        if number == restart_at:
            known = Acquaintances(known.hints())
        known.acknowledged(2, *report)
    assert known.of(2).index == 9


# What a member believes of what others say against it


def refusal(reason):
    return Refusal(reason=reason, sentence="so it is")


@pytest.mark.parametrize("reason", [REMOVED, ROLLED_BACK])
def test_member_believes_at_once_that_it_was(reason):
    assert Refusals().believed(2, refusal(reason), 0.0)


@pytest.mark.parametrize("reason", [WRONG_MEMBER, STRANGER, "something new"])
def test_member_never_ends_for(reason):
    refusals = Refusals()
    assert not any(refusals.believed(2, refusal(reason), float(now_s)) for now_s in range(100))


def test_member_believes_that_it_is_a_clone_after_a_while_with_one_peer():
    refusals = Refusals()
    assert not refusals.believed(2, refusal(CLONED), 0.0)
    assert not refusals.believed(3, refusal(CLONED), 9.0)
    refusals.accepted(3)
    assert not refusals.believed(2, refusal(CLONED), CLONE_REFUSED_S - 0.1)
    assert not refusals.believed(3, refusal(CLONED), CLONE_REFUSED_S + 0.1)
    assert refusals.believed(2, refusal(CLONED), CLONE_REFUSED_S)


def test_member_that_was_let_in_since_is_no_clone():
    refusals = Refusals()
    assert not refusals.believed(2, refusal(CLONED), 0.0)
    refusals.accepted(2)
    assert not refusals.believed(2, refusal(CLONED), 11.0)


# Frames


@pytest.mark.parametrize("value", [hello(), Welcome(), Ping(), refusal(CLONED)])
def test_own_frames_are_told_from_the_cores(value):
    frame = encode_own(value)
    assert is_own(frame)
    assert decode_own(frame) == value
    assert {WELCOME: Welcome(), PING: Ping()}.get(frame, value) == value
    assert not is_own(msgspec.msgpack.encode([1, 2]))
    assert not is_own(b"")


@pytest.mark.parametrize(
    "value",
    [
        hello(sender=0),
        hello(sender=-1),
        hello(term=2**63),
        hello(last_index=-1),
        refusal("x" * 101),
        msgspec.structs.replace(refusal(REMOVED), sentence="x" * 1_001),
        msgspec.structs.replace(refusal(REMOVED), index=2**63),
    ],
)
def test_numbers_and_words_have_bounds(value):
    with pytest.raises(ValueError, match="Expected"):
        decode_own(encode_own(value))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_garbage_is_no_frame(garbage):
    for frame in (garbage, MARK + garbage, MARK + b"\x91" * 5000):
        try:
            decode_own(frame)
        except ValueError:
            continue
        assert is_own(frame)
