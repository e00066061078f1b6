"""Entropy by the page: nothing is handed out twice, whoever draws."""

from concurrent.futures import ThreadPoolExecutor

from swarmlet.env.real import PooledEntropy


def test_entropy_is_as_long_as_asked_for_whatever_the_size():
    entropy = PooledEntropy()
    assert [len(entropy(size)) for size in (0, 1, 17, 31, 32, 5000)] == [0, 1, 17, 31, 32, 5000]


def test_entropy_is_never_handed_out_twice_by_any_number_of_threads():
    entropy = PooledEntropy()
    with ThreadPoolExecutor(8) as pool:
        drawn = [*pool.map(lambda _: entropy(17), range(20_000))]
    assert len(set(drawn)) == len(drawn)


def test_entropy_does_not_keep_what_it_handed_out():
    entropy = PooledEntropy()
    drawn = entropy(31)
    assert drawn not in bytes(entropy._page)
