"""Names by which clones of connections are made and found again."""

from ipaddress import ip_address

import pytest

from swanroam.ike.clones import clone_name, clone_pair, is_of, original_name


@pytest.mark.parametrize("connection", ["home", "with~tilde", "a~10.0.0.1", "~"])
@pytest.mark.parametrize(("local", "remote"), [("10.2.2.2", "10.3.3.2"), ("2001:db8:b::2", "2001:db8:d::2")])
def test_clone_is_recognised_by_its_name(connection: str, local: str, remote: str) -> None:
    pair = ip_address(local), ip_address(remote)
    name = clone_name(connection, *pair)
    assert name == f"{connection}~{local}~{remote}"
    assert clone_pair(connection, name) == pair
    assert original_name(name) == connection
    assert is_of(connection, name)


@pytest.mark.parametrize("name", ["home", "home~10.2.2.2", "home~a~b", "office~10.2.2.2~10.3.3.2", "(unnamed)"])
def test_other_names_are_no_clones_of_it(name: str) -> None:
    assert clone_pair("home", name) is None
    assert is_of("home", name) is (name == "home")


def test_name_of_a_connection_that_is_no_clone_is_its_own() -> None:
    assert original_name("home") == "home"
    assert original_name("home~a~b") == "home~a~b"
