"""Claims: whoever offers events first has them, and nobody else meanwhile."""

from __future__ import annotations

import pytest

from otel_audit_exporter.delivery.in_flight import Claims, as_run


@pytest.fixture
def claims() -> Claims:
    return Claims()


STORE = object()
OTHER = object()


def test_what_is_free_is_claimed_whole_and_again_after_it_was_given_back(claims: Claims) -> None:
    taken = claims.take(STORE, [3, 4, 5])
    assert taken == range(3, 6)
    claims.give_back(STORE, taken)
    assert len(claims) == 0
    assert claims.take(STORE, [3, 4, 5]) == range(3, 6)


@pytest.mark.parametrize("second", [[4, 5, 6, 7], [2, 4, 6, 7], [7, 6, 5, 4]], ids=["run", "gaps", "backwards"])
def test_what_somebody_has_claimed_is_left_out(claims: Claims, second: list[int]) -> None:
    claims.take(STORE, [3, 4, 5])
    assert set(claims.take(STORE, second)) == set(second) - {3, 4, 5}
    assert set(claims.take(STORE, [1, *second])) == {1}


def test_the_numbers_of_another_store_are_others(claims: Claims) -> None:
    claims.take(STORE, [1, 2])
    assert set(claims.take(OTHER, [1, 2])) == {1, 2}


def test_giving_back_lets_go_of_one_s_own_only(claims: Claims) -> None:
    first = claims.take(STORE, [1, 2, 3])
    second = claims.take(STORE, [2, 3, 9])
    claims.give_back(STORE, second)
    assert set(claims.take(STORE, [3, 9])) == {9}
    claims.give_back(STORE, first)
    assert set(claims.take(STORE, [1, 2, 3])) == {1, 2, 3}


def test_a_claim_of_nothing_may_be_given_back(claims: Claims) -> None:
    claims.take(STORE, [1])
    nothing = claims.take(STORE, [1])
    assert not nothing
    claims.give_back(STORE, nothing)
    assert len(claims) == 1


@pytest.mark.parametrize(
    ("numbers", "run"),
    [([], range(0)), ([7], range(7, 8)), ([2, 3, 4], range(2, 5)), ([4, 2, 3], range(2, 5)), ([1, 7, 3, 4], None)],
)
def test_numbers_without_gaps_are_a_run_in_whatever_order(numbers: list[int], run: range | None) -> None:
    assert as_run(numbers) == run
