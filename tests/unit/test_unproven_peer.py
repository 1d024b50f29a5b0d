"""What a peer does not get before its new address is proven, or for one that it has left: nothing is moved there.

`host` is the correspondent at P, unless it says otherwise; the mobile host is played.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from swanroam.protocol.events import Fact, FiltersEstablished, MigrateFilters, ReadUsage, UsageRead
from swanroam.protocol.host_state import Pair
from swanroam.protocol.messages import (
    HANDOVER_SIZE,
    Acknowledgment,
    AddressChange,
    Connection,
    FiltersReply,
    FiltersRequest,
    Method,
    Obstacle,
    Stage,
    TransferReply,
    TransferRequest,
    TransferStage,
    Transport,
)
from swanroam.protocol.transfer import (
    FindSockets,
    InspectSockets,
    Key,
    LetGo,
    MoveSockets,
    RebuildSockets,
    SocketsInspected,
    SocketsLetGo,
    SocketsStopped,
    StopSockets,
)
from unit.driver import (
    SETTINGS,
    STATIONARY,
    A,
    B,
    C,
    Driver,
    P,
    Q,
    answer,
    change,
    facts,
    found,
    only,
    path_response,
    sent,
)

MOVE_FILTERS = FiltersRequest(2, bytes(HANDOVER_SIZE), Stage.MOVE)
PREPARE = TransferRequest(
    sequence=2,
    handover=bytes(HANDOVER_SIZE),
    transfer=7,
    stage=TransferStage.PREPARE,
    old=(A, P),
    new=(B, P),
    connections=(Connection(Transport.TCP, 40000, 80),),
)


def proving() -> tuple[Driver, Acknowledgment]:
    """The mobile host has registered at A and announced B."""
    host = Driver(STATIONARY)
    host.associate(Pair(P, A))
    host.receive(change(1, A))
    return host, only(sent(host.receive(change(2, B, A)), Acknowledgment))


def test_no_socket_moves_to_an_address_that_is_not_proven():
    host, challenged = proving()
    assert facts(host.receive(PREPARE)) == [Fact.UNEXPECTED_MESSAGE]
    host.receive(path_response(challenged))
    assert only(found(host.receive(PREPARE), InspectSockets)).new == Pair(P, B)


@pytest.mark.parametrize(
    "request_",
    [
        replace(PREPARE, sequence=1),
        replace(PREPARE, new=(C, P)),
        replace(PREPARE, new=(B, Q)),
        replace(PREPARE, old=(C, P)),
        replace(PREPARE, old=(A, Q)),
        replace(PREPARE, old=(B, P)),
    ],
    ids=[
        "overtaken",
        "to an address not announced",
        "to another host",
        "from an address not its own",
        "of another host",
        "to where they are",
    ],
)
def test_sockets_move_between_the_announced_addresses_only(request_: TransferRequest):
    host, challenged = proving()
    host.receive(path_response(challenged))
    assert facts(host.receive(request_)) == [Fact.UNEXPECTED_MESSAGE]


@pytest.mark.parametrize("stage", [TransferStage.MOVE, TransferStage.END])
def test_no_socket_moves_that_was_not_asked_about_before(stage: TransferStage):
    host, challenged = proving()
    host.receive(path_response(challenged))
    actions = host.receive(replace(PREPARE, stage=stage))
    assert only(sent(actions, TransferReply)).connections[0].obstacle is Obstacle.BUSY
    assert len(actions) == 1


def prepared() -> Driver:
    """A transfer from A to B has been asked about; then the mobile host has announced C, which is not proven."""
    host, challenged = proving()
    host.receive(path_response(challenged))
    host.receive(PREPARE)
    host.feed(SocketsInspected(PREPARE.transfer, ()))
    host.receive(change(3, C, A, B))
    return host


def test_what_has_begun_is_let_go_when_the_address_has_changed_and_moves_nowhere():
    host = prepared()
    actions = host.receive(replace(PREPARE, stage=TransferStage.MOVE))
    assert only(sent(actions, TransferReply)).connections[0].obstacle is Obstacle.OVERTAKEN
    assert len(actions) == 1
    end = replace(PREPARE, stage=TransferStage.END)
    assert only(found(host.receive(end), LetGo)).transfer == PREPARE.transfer
    reply = only(sent(host.feed(SocketsLetGo(PREPARE.transfer)), TransferReply))
    assert (reply.sequence, reply.stage) == (2, TransferStage.END)
    assert facts(host.receive(replace(PREPARE, transfer=8))) == [Fact.UNEXPECTED_MESSAGE]


@pytest.mark.parametrize(
    "request_",
    [
        replace(PREPARE, sequence=1),
        replace(PREPARE, transfer=8),
        replace(PREPARE, old=(B, P), new=(A, P)),
        replace(PREPARE, new=(C, P)),
        replace(PREPARE, old=(A, Q)),
    ],
    ids=["of another change", "another transfer", "the other way", "to another address", "of another host"],
)
@pytest.mark.parametrize("stage", [TransferStage.MOVE, TransferStage.END])
def test_only_what_was_asked_about_is_brought_to_its_end(request_: TransferRequest, stage: TransferStage):
    assert facts(prepared().receive(replace(request_, stage=stage))) == [Fact.UNEXPECTED_MESSAGE]


def test_a_reply_about_sockets_counts_for_the_sequence_that_asked():
    host = Driver(SETTINGS)
    host.addresses(A)
    host.receive(answer(only(sent(host.associate(Pair(A, P)), AddressChange))))
    host.receive(change(1, P))
    host.receive(answer(only(sent(host.addresses(B), AddressChange))))
    key = Key(Transport.TCP, 40000, 80)
    host.movable = (key,)
    actions = host.feed(FiltersEstablished(Pair(B, P))) + host.associate(Pair(A, P), Pair(B, P))
    request = only(sent(actions, TransferRequest))
    reply = TransferReply(
        request.sequence, request.handover, request.transfer, request.stage, (Connection(Transport.TCP, 80, 40000),)
    )
    assert not found(host.receive(replace(reply, sequence=reply.sequence - 1)), StopSockets)
    assert only(found(host.receive(reply), StopSockets)).keys == (key,)
    request = only(sent(host.feed(SocketsStopped(request.transfer, ((key, 7),), ())), TransferRequest))
    host.addresses(C)  # the programs are stopped: the answer is still wanted
    reply = replace(reply, stage=TransferStage.MOVE, connections=(Connection(Transport.TCP, 80, 40000, number=9),))
    assert only(found(host.receive(reply), RebuildSockets)).numbers == ((key, 9),)


def test_no_filters_move_to_an_address_that_is_not_proven():
    host, challenged = proving()
    assert facts(host.receive(MOVE_FILTERS)) == [Fact.UNEXPECTED_MESSAGE]
    host.receive(path_response(challenged))
    assert facts(host.receive(replace(MOVE_FILTERS, sequence=1))) == [Fact.UNEXPECTED_MESSAGE]
    assert only(found(host.receive(MOVE_FILTERS), MigrateFilters)).pair == Pair(P, B)


def test_a_host_that_moves_leads_no_socket_to_a_peer_that_is_not_proven():
    # host  moves from P to Q; the other host announces B meanwhile
    host = Driver(SETTINGS)
    host.addresses(P)
    host.receive(answer(only(sent(host.associate(Pair(P, A)), AddressChange))))
    host.receive(change(1, A))
    announcement = only(sent(host.addresses(Q), AddressChange))
    challenged = only(sent(host.receive(change(2, B, A)), Acknowledgment))
    actions = host.receive(answer(announcement)) + host.feed(FiltersEstablished(Pair(Q, B)))
    actions += host.associate(Pair(P, A), Pair(Q, B))
    assert not found(actions, FindSockets)
    assert {search.new for search in found(host.receive(path_response(challenged)), FindSockets)} == {Pair(Q, B)}


def test_no_socket_is_taken_apart_while_those_on_an_old_address_are_counted():
    """It would be missing in the count, and the filters that it may have to return to would go."""
    # host  moves from P to Q, and is about to release P; the other host has moved from A to B, and its sockets follow
    host = Driver(SETTINGS)
    host.addresses(P)
    host.receive(answer(only(sent(host.associate(Pair(P, A)), AddressChange))))
    host.receive(change(1, A))
    host.receive(answer(only(sent(host.addresses(Q), AddressChange))))
    host.receive(path_response(only(sent(host.receive(change(2, B, A)), Acknowledgment))))
    host.feed(FiltersEstablished(Pair(Q, B)))
    host.associate(Pair(P, A), Pair(Q, B))
    asked = replace(PREPARE, old=(A, Q), new=(B, Q))
    host.receive(asked)
    host.feed(SocketsInspected(asked.transfer, ()))
    while not (counted := found(host.wait(1), ReadUsage)):
        assert host.now < 200
    move, end = (replace(asked, stage=stage) for stage in (TransferStage.MOVE, TransferStage.FINISH))
    assert not host.receive(move)
    assert not host.receive(end)
    host.feed(UsageRead(only(counted).address, 1))
    assert only(found(host.receive(move), MoveSockets)).old == Pair(Q, A)


def test_a_reply_about_filters_of_an_overtaken_move_moves_nothing():
    host = Driver(replace(SETTINGS, mobile=replace(SETTINGS.mobile, method=Method.MIGRATE)))
    host.addresses(A)
    host.receive(answer(only(sent(host.associate(Pair(A, P)), AddressChange))))
    actions = host.receive(answer(only(sent(host.addresses(B), AddressChange))))
    request = only(sent(actions, FiltersRequest))
    moved = FiltersReply(request.sequence, request.handover, request.stage, "")
    assert not found(host.receive(replace(moved, sequence=request.sequence - 1)), MigrateFilters)
    assert only(found(host.receive(moved), MigrateFilters)).pair == Pair(B, P)
