"""Bytes that all connections share."""

import pytest

from ephemeralml.enclave.budget import ByteBudget


def test_what_does_not_fit_reserves_nothing() -> None:
    budget = ByteBudget(10)
    assert budget.take(10)
    assert not budget.take(1)
    assert budget.used == 10
    budget.give(4)
    assert budget.take(4)


def test_overdrawing_is_paid_back() -> None:
    budget = ByteBudget(10)
    budget.adjust(15)
    assert not budget.take(0)
    budget.give(15)
    assert budget.used == 0


def test_returning_too_much_is_a_bug() -> None:
    with pytest.raises(RuntimeError):
        ByteBudget(10).give(1)


def test_it_is_exhausted_at_its_limit() -> None:
    budget = ByteBudget(10)
    assert budget.take(9)
    assert not budget.exhausted
    budget.adjust(1)
    assert budget.exhausted
    budget.adjust(5)
    assert budget.exhausted
