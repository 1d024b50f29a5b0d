"""Who may move what, to where."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, State, at

AUTHORISATION = "unit/test_authorisation.py"
CORRESPONDENT = "unit/test_correspondent.py"
SENDERS = "unit/test_senders.py"
RECEPTION = "unit/test_reception.py"
PREFIX_FIRST = "test_the_prefix_is_guarded_before_it_is_used_and_all_guards_go_last"

REQUIREMENTS = (
    Requirement(
        number=1,
        title="address binding",
        text="A change from X to Y is taken only from the identity that has X, by an SA or by its last binding; who "
        "sent a message is what charon says, not what the message says.",
        sources="RFC 4555 §5.2; RFC 6275 §15.1, §15.3",
        where=("protocol/authorisation.py", "daemon/charon.py", "daemon/reception.py"),
        tests=(
            *at(AUTHORISATION, "test_nobody_takes_the_connections_of_an_address_that_is_not_his"),
            *at(
                CORRESPONDENT,
                "test_refusal_changes_nothing_but_tells_why_and_is_counted",
                "test_released_address_is_nobodys_to_claim",
            ),
            *at(
                SENDERS,
                "test_an_inner_address_is_of_the_identity_that_charon_authenticated",
                "test_an_inner_address_that_two_identities_have_is_nobodys",
                "test_only_what_the_owner_of_the_inner_address_sends_reaches_its_machine",
            ),
            *at(RECEPTION, "test_only_the_identity_that_charon_names_speaks_from_an_inner_address"),
        ),
        mutations=(
            Mutation(
                "foreign-address-is-owned",
                "an address that the sender does not have is taken for his",
                (Edit("protocol.authorisation:authorise", "if address not in owned:", "if False:"),),
                at(AUTHORISATION, "test_nobody_takes_the_connections_of_an_address_that_is_not_his"),
            ),
            Mutation(
                "disputed-inner-address-has-an-owner",
                "of two identities with one inner address, the first counts",
                (Edit("daemon.charon:_owners", "disputed.add(address)", "pass"),),
                at(SENDERS, "test_an_inner_address_that_two_identities_have_is_nobodys"),
            ),
            Mutation(
                "sender-is-who-it-says",
                "the inner address alone tells who sends, whatever charon says about it",
                (
                    Edit(
                        "daemon.reception:Reception.admit",
                        "if self._owner(sender) != peer.settings.identity:",
                        "if False:",
                    ),
                ),
                (
                    *at(SENDERS, "test_only_what_the_owner_of_the_inner_address_sends_reaches_its_machine"),
                    *at(RECEPTION, "test_only_the_identity_that_charon_names_speaks_from_an_inner_address"),
                ),
            ),
        ),
    ),
    Requirement(
        number=2,
        title="authorisation of the new address",
        text="The new address is one that the configuration lets this peer move to and that hosts elsewhere reach: not "
        "loopback, multicast, link-local, reserved, and none of ours.",
        sources="RFC 4555 §3.5, §4.1.1; RFC 6890",
        where=("protocol/authorisation.py", "daemon/surroundings.py"),
        tests=(
            *at(
                AUTHORISATION,
                "test_addresses_that_reach_nobody_are_refused",
                "test_moves_stay_in_the_allowed_prefixes",
                "test_an_ike_sa_is_no_permission_to_move_where_policy_does_not_allow",
                "test_a_link_local_address_is_allowed_only_where_it_is_configured",
                "test_nobody_moves_into_the_prefix_of_inner_addresses",
                "test_nobody_moves_to_an_address_that_is_taken",
                "test_an_identity_that_may_not_move_may_still_say_where_it_is",
                "test_a_move_keeps_its_address_family",
            ),
            *at(CORRESPONDENT, "test_refusal_changes_nothing_but_tells_why_and_is_counted"),
            *at("unit/test_controller.py", "test_a_peer_does_not_get_an_address_of_this_host"),
        ),
        mutations=(
            Mutation(
                "any-address-is-usable",
                "loopback, multicast, link-local and reserved addresses are accepted",
                (Edit("protocol.authorisation:unusable", "in kinds if holds", "in ()"),),
                at(AUTHORISATION, "test_addresses_that_reach_nobody_are_refused"),
            ),
            Mutation(
                "any-prefix-is-allowed",
                "`allow` is not looked at",
                (Edit("protocol.authorisation:_not_permitted", "if policy.allowed and", "if False and"),),
                at(AUTHORISATION, "test_moves_stay_in_the_allowed_prefixes"),
            ),
            Mutation(
                "anybody-may-move",
                "`moves` is not looked at",
                (Edit("protocol.authorisation:_not_permitted", "if not policy.may_move:", "if False:"),),
                at(AUTHORISATION, "test_an_identity_that_may_not_move_may_still_say_where_it_is"),
            ),
            Mutation(
                "ike-sa-is-permission",
                "where charon has an IKE_SA with the peer, it may move to whatever `moves` and `allow` say",
                (
                    Edit(
                        "protocol.authorisation:authorise",
                        "registers = binding is None and not change.deprecated and change.current",
                        "registers = change.current",
                    ),
                ),
                at(AUTHORISATION, "test_an_ike_sa_is_no_permission_to_move_where_policy_does_not_allow"),
            ),
            Mutation(
                "inner-prefix-may-be-moved-to",
                "a peer may move to an inner address",
                (
                    Edit(
                        "protocol.authorisation:_unsuitable", "if surroundings.control is not None and", "if False and"
                    ),
                ),
                at(AUTHORISATION, "test_nobody_moves_into_the_prefix_of_inner_addresses"),
            ),
            Mutation(
                "own-address-may-be-taken",
                "a peer may move to an address of this host",
                (Edit("protocol.authorisation:_taken", "if address in own:", "if False:"),),
                at(AUTHORISATION, "test_nobody_moves_to_an_address_that_is_taken"),
            ),
            Mutation(
                "own-addresses-are-not-known",
                "the machine of a peer is not told which addresses this host has",
                (
                    Edit(
                        "daemon.surroundings:surroundings",
                        "return Surroundings(frozenset(here),",
                        "return Surroundings(frozenset(),",
                    ),
                ),
                at("unit/test_controller.py", "test_a_peer_does_not_get_an_address_of_this_host"),
            ),
        ),
    ),
    Requirement(
        number=3,
        title="address of another peer",
        text="Nobody moves to an address that another peer has; that peer's traffic and policies stay as they are. Who "
        "only claims an address keeps nobody away from it: the first to prove it has it.",
        sources="RFC 4225 §3.1.1",
        where=("protocol/authorisation.py", "protocol/correspondent.py", "daemon/surroundings.py"),
        tests=(
            *at(
                AUTHORISATION,
                "test_nobody_moves_to_an_address_that_is_taken",
                "test_a_registration_takes_no_address_of_a_registered_peer_not_even_with_an_ike_sa_there",
            ),
            *at(
                CORRESPONDENT,
                "test_refusal_changes_nothing_but_tells_why_and_is_counted",
                "test_an_unproven_address_keeps_nobody_else_away",
                "test_of_two_peers_that_claim_one_address_the_first_to_prove_it_has_it",
            ),
            *at("unit/test_controller.py", "test_a_peer_does_not_get_an_address_that_another_peer_has"),
        ),
        mutations=(
            Mutation(
                "peers-address-may-be-taken",
                "the check for other peers' addresses is left out",
                (Edit("protocol.authorisation:_taken", "if address in others:", "if False:"),),
                at(AUTHORISATION, "test_nobody_moves_to_an_address_that_is_taken"),
            ),
            Mutation(
                "peers-do-not-know-each-other",
                "the machine of a peer is not told which addresses other peers have",
                (Edit("daemon.controller:Controller._surroundings", "own, machines.values(),", "own, (),"),),
                at("unit/test_controller.py", "test_a_peer_does_not_get_an_address_that_another_peer_has"),
            ),
            Mutation(
                "claimed-address-is-kept",
                "an address that a peer has not proven is taken for its own",
                (Edit("protocol.correspondent:Correspondent.claimed", " - self._doubtful", ""),),
                at(CORRESPONDENT, "test_an_unproven_address_keeps_nobody_else_away"),
            ),
            Mutation(
                "address-is-proven-twice",
                "a peer may prove an address that another one has proven since it was claimed",
                (
                    Edit(
                        "protocol.correspondent:Correspondent.path_response",
                        "if self.binding.current in surroundings.registered:",
                        "if False:",
                    ),
                ),
                at(CORRESPONDENT, "test_of_two_peers_that_claim_one_address_the_first_to_prove_it_has_it"),
            ),
        ),
    ),
    Requirement(
        number=4,
        title="addresses of the past",
        text="Who has left X can no longer claim it, be sent anything for it or keep it for longer than it says; the "
        "correspondent's own clock ends it.",
        sources="RFC 4225 §3.1.3; RFC 4555 §5.2",
        where=("protocol/correspondent.py",),
        tests=at(
            CORRESPONDENT,
            "test_released_address_is_nobodys_to_claim",
            "test_address_that_was_proven_and_released_gets_nothing_more",
            "test_lingering_guard_waits_for_the_end_of_the_ike_sa",
            "test_released_address_stays_guarded_while_sockets_use_it",
            "test_an_identity_whose_old_addresses_are_all_in_use_here_moves_no_further",
        ),
        mutations=(
            Mutation(
                "released-address-stays-owned",
                "an address that was in the binding counts as owned while sockets use it",
                (
                    Edit(
                        "protocol.correspondent:Correspondent.changed",
                        "{association.pair.remote for association in associations}",
                        "{*(association.pair.remote for association in associations), *self._lingering}",
                    ),
                ),
                at(CORRESPONDENT, "test_released_address_is_nobodys_to_claim"),
            ),
            Mutation(
                "released-address-stays-proven",
                "data goes on to a proven address that was released",
                (
                    Edit(
                        "protocol.correspondent:Correspondent._accept",
                        "if self.proven not in after.addresses:",
                        "if False:",
                    ),
                ),
                at(CORRESPONDENT, "test_address_that_was_proven_and_released_gets_nothing_more"),
            ),
            Mutation(
                "stray-ike-sa-stays",
                "an IKE_SA with a released address is not ended when the peer does not end it",
                (
                    Edit(
                        "protocol.correspondent:Correspondent.advance",
                        "elif not entry.terminated and now >= entry.stray_due:",
                        "elif False:",
                    ),
                ),
                at(CORRESPONDENT, "test_lingering_guard_waits_for_the_end_of_the_ike_sa"),
            ),
        ),
        state=State.PARTLY,
        remark="As long as a peer goes on naming an old address of its own as deprecated, it keeps it: the "
        "correspondent sets no limit of its own, and the address's next owner has to wait.",
    ),
    Requirement(
        number=5,
        title="messages over IPsec only",
        text="The same bytes in clear, over the SA of another identity or to an outer address are dropped before they "
        "are parsed; without an SA nothing is sent.",
        sources="RFC 4555 §5.1",
        where=(
            "kernel/xfrm/guards.py",
            "kernel/inner.py",
            "daemon/control_channel.py",
            "daemon/reception.py",
            "daemon/host.py",
        ),
        tests=(
            *at("kernel/test_xfrm_guards.py", "test_prefix_is_neither_reached_nor_believed_in_clear"),
            *at("unit/test_xfrm_guards.py", "test_prefix_guard_blocks_both_ways_in_all_directions"),
            *at("unit/test_host_order.py", PREFIX_FIRST),
            *at(
                "unit/test_control_channel.py",
                "test_what_comes_from_another_port_is_no_controllers",
                "test_who_is_not_admitted_is_not_even_read",
            ),
            *at(SENDERS, "test_only_what_the_owner_of_the_inner_address_sends_reaches_its_machine"),
            *at("kernel/test_inner.py", "test_without_a_policy_nothing_leaves", "test_without_an_sa_nothing_leaves"),
            *at("scenarios/test_bad_input.py", "test_datagrams_that_are_no_messages_are_counted_and_dropped"),
        ),
        mutations=(
            Mutation(
                "inner-prefix-is-not-guarded",
                "packets of the inner prefix are accepted and sent without IPsec",
                (Edit("kernel.xfrm.guards:prefix_guard", "for direction in (", "for direction in () and ("),),
                at("kernel/test_xfrm_guards.py", "test_prefix_is_neither_reached_nor_believed_in_clear"),
            ),
            Mutation(
                "inner-prefix-is-used-before-its-guard",
                "at the start the inner addresses come before the guard of their prefix",
                (
                    Edit(
                        "daemon.host:LocalHost.__aenter__",
                        "            await apply_owned(self._xfrm, effective(found, prefix_guard(control.prefix)))\n",
                        "",
                    ),
                ),
                at("unit/test_host_order.py", PREFIX_FIRST),
            ),
            Mutation(
                "any-port-is-the-controllers",
                "datagrams from any port of an inner address are read",
                (
                    Edit(
                        "daemon.control_channel:ControlChannel._take",
                        "if port != self._port:",
                        "if False:",
                    ),
                ),
                at("unit/test_control_channel.py", "test_what_comes_from_another_port_is_no_controllers"),
            ),
            Mutation(
                "read-before-admitted",
                "whoever sends, the datagram is taken apart",
                (
                    Edit(
                        "daemon.control_channel:ControlChannel._take",
                        "if reason := self._admit(address):",
                        "if reason := '':",
                    ),
                ),
                at("unit/test_control_channel.py", "test_who_is_not_admitted_is_not_even_read"),
            ),
            Mutation(
                "inner-prefix-has-no-rule",
                "packets to inner addresses go by whatever route there is",
                (Edit("kernel.inner:InnerPlane.apply", "*(rules - found.rules),", ""),),
                at("kernel/test_inner.py", "test_without_a_policy_nothing_leaves"),
            ),
        ),
    ),
    Requirement(
        number=6,
        title="no widening",
        text="A move does not enlarge what any policy or SA selects: protocols, ports, prefixes. Sockets move between "
        "the addresses of the two hosts that share them, to the current ones, and nowhere else.",
        sources="RFC 4301 §4.4.1; RFC 4555 §5.2",
        where=(
            "ike/expectations.py",
            "ike/definitions.py",
            "kernel/xfrm/states.py",
            "ike/readback.py",
            "protocol/transfers.py",
        ),
        tests=(
            *at("unit/test_expectations.py", "test_shortcomings_are_named"),
            *at("unit/test_definitions.py", "test_clone_is_bound_to_its_addresses_and_starts_nothing_by_itself"),
            *at("unit/test_xfrm_clones.py", "test_widened_source_accepts_any_address_and_nothing_else_more"),
            *at("unit/test_readback.py", "test_protocol_and_port_of_a_policy_count"),
            *at("unit/test_unproven_peer.py", "test_sockets_move_between_the_announced_addresses_only"),
            *at("scenarios/test_ike_renegotiate.py", "test_kernel_holds_what_is_expected_of_new_associations"),
        ),
        mutations=(
            Mutation(
                "any-selectors-will-do",
                "new CHILD_SAs are accepted with other selectors than the old ones had",
                (Edit("ike.expectations:shortcomings", "found += _selector_shortcomings(", "_selector_shortcomings("),),
                at("unit/test_expectations.py", "test_shortcomings_are_named"),
            ),
            Mutation(
                "any-mode-will-do",
                "a responder may fall back to tunnel mode",
                (Edit("ike.expectations:shortcomings", "if child.mode is not mode:", "if False:"),),
                at("unit/test_expectations.py", "test_shortcomings_are_named"),
            ),
            Mutation(
                "widened-sa-takes-any-protocol",
                "an SA that is to accept another source accepts other protocols as well",
                (
                    Edit(
                        "kernel.xfrm.states:widen_source",
                        "saddr=anywhere, prefixlen_s=0)",
                        "saddr=anywhere, prefixlen_s=0, proto=0)",
                    ),
                ),
                at("unit/test_xfrm_clones.py", "test_widened_source_accepts_any_address_and_nothing_else_more"),
            ),
            Mutation(
                "sockets-move-anywhere",
                "a peer may name any addresses from which and to which sockets move",
                (
                    Edit(
                        "protocol.transfers:Transfers.requested",
                        "if new != current or",
                        "if False and",
                    ),
                ),
                at("unit/test_unproven_peer.py", "test_sockets_move_between_the_announced_addresses_only"),
            ),
        ),
    ),
)
