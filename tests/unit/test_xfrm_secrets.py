"""Keys do not get out by printing, formatting, errors or serialising (SEC-21)."""

import copy
import logging
import pickle
from dataclasses import asdict, replace
from ipaddress import ip_address

import pytest

from swanroam.kernel.xfrm.algorithms import AeadAlgorithm, Algorithm, KeyMaterial, TruncatedAuthentication
from swanroam.kernel.xfrm.association import SecurityAssociation
from swanroam.kernel.xfrm.codec import Attribute, Message, decode_messages
from swanroam.kernel.xfrm.constants import MessageType
from swanroam.kernel.xfrm.errors import XfrmDecodeError, XfrmUnsupported
from swanroam.kernel.xfrm.events import AssociationChanged, decode_event
from swanroam.kernel.xfrm.selectors import Selector
from swanroam.kernel.xfrm.socket import Request
from swanroam.kernel.xfrm.states import require_keys

KEY = b"SeCrEtKeYmAtErIaLSeCrEtKeYmAtErIaL"
SECRETS = ("SeCrEt", KEY.hex(), repr(KEY), str(list(KEY))[1:-1])


@pytest.fixture
def sa() -> SecurityAssociation:
    me, peer = ip_address("10.0.0.1"), ip_address("10.0.0.2")
    key = KeyMaterial(KEY)
    return SecurityAssociation(
        Selector.between(me, peer),
        me,
        peer,
        0xC0FFEE,
        authentication=Algorithm("hmac(sha256)", len(KEY) * 8, key),
        truncated_authentication=TruncatedAuthentication("hmac(sha256)", len(KEY) * 8, 128, key),
        encryption=Algorithm("cbc(aes)", len(KEY) * 8, key),
        aead=AeadAlgorithm("rfc4106(gcm(aes))", len(KEY) * 8, 128, key),
        others=(Attribute(0x3000, KEY),),
    )


def assert_no_secret(text: str) -> None:
    for secret in SECRETS:
        assert secret not in text


def test_association_prints_names_and_no_keys(sa: SecurityAssociation) -> None:
    assert_no_secret(repr(sa))
    assert_no_secret(str(sa))
    assert_no_secret(f"{sa}")
    assert "rfc4106(gcm(aes))" in repr(sa)
    assert "10.0.0.1 -> 10.0.0.2 esp spi 0x00c0ffee" in str(sa)


def test_message_request_and_event_print_no_keys(sa: SecurityAssociation) -> None:
    body = sa.encode()
    assert KEY in body
    message = Message(MessageType.NEWSA, 0, 7, body)
    event = decode_event(message)
    assert isinstance(event, AssociationChanged)
    for thing in (message, Request(MessageType.NEWSA, body, "add SA", sa), event, Attribute(1, KEY)):
        assert_no_secret(repr(thing))
        assert_no_secret(str(thing))


def test_decode_errors_show_no_octets(sa: SecurityAssociation) -> None:
    body = sa.encode()
    for length in range(len(body)):
        with pytest.raises(XfrmDecodeError) as caught:
            list(decode_messages(Message(MessageType.NEWSA, 0, 7, body).encode()[: 16 + length]))
        assert_no_secret(str(caught.value) + repr(caught.value))
        try:
            SecurityAssociation.decode(body[:length])
        except XfrmDecodeError as error:
            assert_no_secret(str(error) + repr(error))


def test_key_is_not_pickled_logged_or_copied_out(caplog: pytest.LogCaptureFixture) -> None:
    key = KeyMaterial(KEY)
    with pytest.raises(TypeError, match="not written anywhere"):
        pickle.dumps(key)
    with pytest.raises(TypeError, match="not written anywhere"):
        copy.copy(key)
    logging.getLogger("test").warning("%s %r", key, key)
    assert_no_secret(caplog.text)


def test_association_is_not_turned_into_a_dictionary(sa: SecurityAssociation) -> None:
    """The first step of most serialisers."""
    with pytest.raises(TypeError, match="not written anywhere"):
        asdict(sa)


def test_keys_compare_by_their_octets() -> None:
    assert KeyMaterial(KEY) == KeyMaterial(KEY)
    assert hash(KeyMaterial(KEY)) == hash(KeyMaterial(KEY))
    assert KeyMaterial(KEY) != KeyMaterial(KEY[1:])
    assert KeyMaterial(KEY) != KEY


def test_keys_that_lockdown_blanked_are_never_cloned(sa: SecurityAssociation) -> None:
    blank = replace(sa, aead=AeadAlgorithm("rfc4106(gcm(aes))", 160, 128, KeyMaterial(bytes(20))))
    require_keys(sa)
    with pytest.raises(XfrmUnsupported, match="lockdown") as caught:
        require_keys(blank)
    assert "method renegotiate" in str(caught.value)


def test_null_cipher_has_no_key_to_require(sa: SecurityAssociation) -> None:
    require_keys(replace(sa, encryption=Algorithm("ecb(cipher_null)", 0, KeyMaterial(b""))))
