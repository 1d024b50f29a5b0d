"""A host's own statement about its addresses."""

from __future__ import annotations

import pytest

from swanroam.protocol.binding import Binding
from unit.driver import A, B, C


def test_a_move_deprecates_the_address_that_was_current():
    assert Binding(A).moved_to(B) == Binding(B, (A,))


def test_old_addresses_stand_in_the_order_in_which_they_were_left():
    assert Binding(A).moved_to(B).moved_to(C) == Binding(C, (A, B))


def test_an_old_address_that_comes_back_is_current_again():
    assert Binding(A).moved_to(B).moved_to(A) == Binding(A, (B,))


def test_a_move_to_the_current_address_changes_nothing():
    binding = Binding(B, (A,))
    assert binding.moved_to(B) is binding


def test_a_released_address_is_gone():
    assert Binding(C, (A, B)).without(A) == Binding(C, (B,))


def test_addresses_begin_with_the_current_one():
    assert Binding(C, (A, B)).addresses == (C, A, B)


@pytest.mark.parametrize("deprecated", [(A,), (B, C, B)])
def test_no_address_stands_twice(deprecated):
    with pytest.raises(ValueError, match="stands twice"):
        Binding(A, deprecated)
