"""Forced moves, downgrades, malformed input, and what becomes of the connections themselves."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, State, at

MOBILE = "unit/test_mobile.py"
MESSAGES = "unit/test_messages.py"
MALFORMED = "test_malformed_datagrams_are_named_and_dropped"
CHANNEL = "unit/test_control_channel.py"
TRANSFERS = "unit/test_transfer_messages.py"
MALFORMED_TRANSFERS = "test_malformed_transfers_are_named_and_dropped"
LOCKS = "kernel/test_xfrm_locks.py"
CONNECTION = "kernel/test_transport_connection.py"
MOVER = "kernel/test_mover.py"
CHOICE = "unit/test_address_choice.py"
FIELDS = "protocol.codec:_Fields.__init__"

REQUIREMENTS = (
    Requirement(
        number=28,
        title="forged local triggers",
        text="Advertisements, leases and link events lead to no address that cannot be used; a new address at which "
        "the peer is not heard is left for one that works.",
        sources="RFC 4555 §5.4",
        where=("kernel/address_choice.py", "kernel/addresses.py", "protocol/mobile.py"),
        tests=(
            *at(MOBILE, "test_host_that_hears_nothing_at_a_new_address_goes_back_to_one_that_it_still_has"),
            *at(
                CHOICE,
                "test_address_that_is_not_ready_is_never_moved_to",
                "test_missing_route_is_no_reason_to_leave_a_working_address",
                "test_address_on_a_link_without_carrier_is_never_moved_to",
            ),
            *at("unit/test_simulation.py", "test_dead_path_leads_back_to_the_old_address"),
            *at("unit/test_addresses.py", "test_addresses_that_other_networks_cannot_reach_never_count"),
        ),
        mutations=(
            Mutation(
                "no-way-back",
                "a host stays at an address at which it hears nothing",
                (
                    Edit(
                        "protocol.mobile:Mobile._way_back",
                        "return back if back is not None and",
                        "return back if False and",
                    ),
                ),
                at(MOBILE, "test_host_that_hears_nothing_at_a_new_address_goes_back_to_one_that_it_still_has"),
            ),
            Mutation(
                "any-address-will-do",
                "addresses that are tentative or duplicate are moved to",
                (Edit("kernel.address_choice:AddressChooser._candidates", "and local.usable", ""),),
                at(CHOICE, "test_address_that_is_not_ready_is_never_moved_to"),
            ),
        ),
    ),
    Requirement(
        number=29,
        title="no downgrade",
        text="There is one version, in which proof, grace and protection are not negotiable; other versions and fields "
        "that are critical and unknown are refused.",
        sources="RFC 5061 §6; RFC 7296 §2.5",
        where=("protocol/codec.py",),
        tests=at(
            MESSAGES,
            MALFORMED,
            "test_every_problem_has_a_datagram_that_causes_it",
            "test_a_later_version_may_add_fields_that_are_not_critical",
        ),
        mutations=(
            Mutation(
                "any-version",
                "the version of a message is not looked at",
                (Edit(FIELDS, "if version != VERSION:", "if False:"),),
                at(MESSAGES, MALFORMED),
            ),
            Mutation(
                "critical-fields-are-skipped",
                "a critical field that is unknown is skipped",
                (Edit(FIELDS, "if kind_of_field & _CRITICAL:", "if False:"),),
                at(MESSAGES, MALFORMED),
            ),
        ),
    ),
    Requirement(
        number=30,
        title="privacy",
        text="A peer is told the addresses that it knows already and the current one, and none that the configuration "
        "ignores.",
        sources="RFC 4555 §5.5; RFC 8046 §6.4; RFC 9000 §9.5",
        where=("protocol/disclosure.py", "kernel/addresses.py"),
        tests=(
            *at(
                MOBILE,
                "test_second_move_before_the_acknowledgment_names_only_what_the_peer_knows",
                "test_too_many_old_addresses_are_kept_but_not_told",
            ),
            *at("unit/test_addresses.py", "test_addresses_in_ignored_prefixes_do_not_count"),
        ),
        mutations=(
            Mutation(
                "every-address-is-told",
                "an address change names all old addresses",
                (
                    Edit(
                        "protocol.disclosure:Disclosure.announcement",
                        "for address in binding.deprecated if address in known)",
                        "for address in binding.deprecated)",
                    ),
                ),
                at(MOBILE, "test_second_move_before_the_acknowledgment_names_only_what_the_peer_knows"),
            ),
            Mutation(
                "ignored-prefixes-count",
                "`ignore` is not looked at",
                (Edit("kernel.addresses:AddressSelection.counts_address", "in self.ignore)", "in ())"),),
                at("unit/test_addresses.py", "test_addresses_in_ignored_prefixes_do_not_count"),
            ),
        ),
        state=State.PARTLY,
        remark="Who watches the network sees the old addresses inside the carrier's packets, and with method migrate "
        "the same SPIs before and after; method renegotiate has new ones.",
    ),
    Requirement(
        number=31,
        title="moves at the same time",
        text="When both hosts move at once, each one's new address is authorised and proven for itself.",
        sources="RFC 8046 §3.2.3",
        where=("protocol/peer.py", "protocol/host_state.py"),
        tests=(
            *at(MOBILE, "test_a_move_of_our_own_proves_nothing_of_the_peers"),
            *at(
                "unit/test_simulation.py",
                "test_both_hosts_move_softly_at_once",
                "test_hard_move_meets_soft_move",
                "test_both_hosts_move_hard_at_once_and_lose_each_other_but_leak_nothing",
            ),
            *at("unit/test_host_state.py", "test_both_hosts_moved"),
            *at("scenarios/test_transport_interrupted.py", "test_both_hosts_move_at_once"),
        ),
        mutations=(
            Mutation(
                "own-move-proves-the-peer",
                "while this host moves itself, the peer's new address counts as proven",
                (
                    Edit(
                        "protocol.peer:PeerMachine.wanted",
                        "self.correspondent.proven if registered else",
                        "self.correspondent.proven if registered and not own.deprecated else",
                    ),
                ),
                at(MOBILE, "test_a_move_of_our_own_proves_nothing_of_the_peers"),
            ),
        ),
    ),
    Requirement(
        number=32,
        title="robust parser",
        text="Truncated, oversized, doubled, unknown: whatever comes is a message or one named error, and changes "
        "nothing.",
        sources="RFC 7296 §2.5, §2.21",
        where=("protocol/codec.py", "daemon/control_channel.py", "kernel/xfrm/codec.py"),
        tests=(
            *at(
                MESSAGES,
                MALFORMED,
                "test_no_bytes_raise_anything_but_a_message_error",
                "test_no_damage_to_a_message_raises_anything_but_a_message_error",
            ),
            *at(CHANNEL, "test_what_is_no_message_is_counted_by_its_reason"),
            *at(TRANSFERS, MALFORMED_TRANSFERS, "test_no_damage_raises_anything_but_a_message_error"),
            *at("unit/test_xfrm_codec.py", "test_arbitrary_octets_are_a_value_or_a_decode_error"),
            *at(
                "unit/test_fuzz.py",
                "test_what_is_in_the_corpus_does_not_fail",
                "test_random_input_does_not_fail",
            ),
            *at("unit/test_vici.py", "test_no_bytes_make_the_decoder_raise_anything_but_its_own_error"),
            *at("scenarios/test_bad_input.py", "test_datagrams_that_are_no_messages_are_counted_and_dropped"),
        ),
        mutations=(
            Mutation(
                "truncated-fields-are-read",
                "a field may end after the datagram",
                (Edit("protocol.codec:_split", "if offset + length > len(datagram):", "if False:"),),
                at(MESSAGES, MALFORMED),
            ),
            Mutation(
                "fields-may-be-doubled",
                "of a field that stands twice the first counts",
                (Edit("protocol.codec:_Fields.one", "if len(values) > 1:", "if False:"),),
                at(MESSAGES, MALFORMED),
            ),
            Mutation(
                "datagrams-of-any-size",
                "a datagram may be as long as UDP allows",
                (Edit(FIELDS, "if len(datagram) > MAX_DATAGRAM:", "if False:"),),
                at(CHANNEL, "test_what_is_no_message_is_counted_by_its_reason"),
            ),
            Mutation(
                "transfers-of-two-families",
                "a transfer may lead from IPv4 to IPv6",
                (Edit("protocol.codec:decode", "(*old, *new)}) > 1:", "(*old, *new)}) > 2:"),),
                at(TRANSFERS, MALFORMED_TRANSFERS),
            ),
            Mutation(
                "connections-may-be-doubled",
                "a transfer may name a connection twice",
                (Edit("protocol.codec:_connections", "entry in found}) != len(found):", "entry in found}) < 0:"),),
                at(TRANSFERS, MALFORMED_TRANSFERS),
            ),
            Mutation(
                "any-number-of-connections",
                "a transfer may name as many connections as fit in",
                (Edit("protocol.codec:_connections", "or count > MAX_CONNECTIONS", ""),),
                at(TRANSFERS, MALFORMED_TRANSFERS),
            ),
            Mutation(
                "connections-without-ports",
                "a transfer may name connections with ports of 0",
                (Edit("protocol.codec:_connections", "or not port or not remote_port", ""),),
                at(TRANSFERS, MALFORMED_TRANSFERS),
            ),
            Mutation(
                "reasons-may-paint",
                "text from the peer may have control characters",
                (Edit("protocol.codec:_Fields.text", "if not all(", "if False and not all("),),
                at(MESSAGES, MALFORMED),
            ),
        ),
    ),
    Requirement(
        number=33,
        title="forged TCP during a move",
        text="While a connection has no socket, its packets are stopped, not answered; a number from the peer that "
        "does not fit is refused before the socket is touched.",
        sources="RFC 5961 §1; tcp(7), net/ipv4/tcp.c (TCP_REPAIR)",
        where=("kernel/xfrm/locks.py", "transport/transfer.py", "transport/image.py"),
        tests=(
            *at(
                LOCKS,
                "test_a_locked_connection_gets_nothing_until_it_is_unlocked",
                "test_no_reset_answers_a_locked_connection_that_nobody_has",
            ),
            *at(CONNECTION, "test_a_peer_that_claims_what_was_never_sent_is_refused_before_anything_is_touched"),
            *at(
                MOVER,
                "test_a_wrong_number_of_the_peer_is_refused_before_the_socket_is_touched",
                "test_owners_are_held_from_stop_to_go_and_locks_remain_only_where_the_socket_was",
            ),
        ),
        mutations=(
            Mutation(
                "locks-do-not-block",
                "a lock allows what it should stop",
                (Edit("kernel.xfrm.locks:lock", "Action.BLOCK", "Action.ALLOW"),),
                at(LOCKS, "test_a_locked_connection_gets_nothing_until_it_is_unlocked"),
            ),
            Mutation(
                "any-number-of-the-peers",
                "a number of the peer's that cannot be is taken",
                (Edit("transport.image:Image.skipped", "if skip > len(self.unacknowledged):", "if False:"),),
                at(CONNECTION, "test_a_peer_that_claims_what_was_never_sent_is_refused_before_anything_is_touched"),
            ),
            Mutation(
                "connections-are-not-locked",
                "the mover takes connections apart without locking them",
                (
                    Edit(
                        "transport.transfer:Transfer._seize",
                        "await add_locks(self._xfrm, self._locked, self._order.lock_seconds)",
                        "pass",
                    ),
                ),
                at(MOVER, "test_owners_are_held_from_stop_to_go_and_locks_remain_only_where_the_socket_was"),
            ),
        ),
    ),
    Requirement(
        number=34,
        title="congestion state",
        text="What was learnt of the old path, congestion window and round trip time, does not count for the new one.",
        sources="RFC 9000 §9.4; RFC 5681 §4.1",
        where=("transport/connection.py", "transport/repair.py"),
        tests=at(CONNECTION, "test_what_was_learnt_of_the_old_path_is_forgotten"),
        mutations=(),
        remark="No mutation: the kernel forgets it when it disconnects the socket (tcp_disconnect); there is nothing "
        "to switch off.",
    ),
)
