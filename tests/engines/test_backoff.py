from itertools import islice

from rayforce_trio._engines._backoff import exponential_backoff


def test_every_pause_is_twice_the_one_before_up_to_the_limit() -> None:
    assert list(islice(exponential_backoff(0.5, 10), 8)) == [0.5, 1, 2, 4, 8, 10, 10, 10]


def test_a_limit_below_the_first_pause_holds_from_the_second_on() -> None:
    assert list(islice(exponential_backoff(3, 1), 3)) == [3, 1, 1]


def test_they_never_end() -> None:
    assert next(islice(exponential_backoff(0.1, 30), 10_000, None)) == 30


def test_each_has_its_own() -> None:
    one, other = exponential_backoff(1, 8), exponential_backoff(1, 8)
    assert [next(one), next(one), next(other), next(one), next(other)] == [1, 2, 1, 4, 2]
