"""Traffic that is aimed at somebody else; tunnels that are open, or go in circles."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, State, at

CORRESPONDENT = "unit/test_correspondent.py"
HOST_STATE = "unit/test_host_state.py"
UNPROVEN = "unit/test_unproven_peer.py"
INGRESS = "kernel/test_ingress.py"
SETTINGS = "unit/test_carrier_settings.py"
TRANSLATION = "unit/test_translation.py"
GUARDS = "kernel/test_xfrm_guards.py"

REQUIREMENTS = (
    Requirement(
        number=12,
        title="return routability",
        text="No bulk data goes to a new address before 16 random bytes, sent to it, have come back; they prove this "
        "address, sequence and identity only, and for 10 s.",
        sources="RFC 4555 §3.7; RFC 8046 §5.4; RFC 9000 §8.2",
        where=(
            "protocol/correspondent.py",
            "protocol/host_state.py",
            "protocol/peer.py",
            "protocol/transfers.py",
        ),
        tests=(
            *at(
                CORRESPONDENT,
                "test_whole_move",
                "test_registration_elsewhere_must_be_proven",
                "test_nothing_but_the_challenge_proves",
                "test_without_proof_in_time_the_last_proven_address_is_current_again",
                "test_second_move_before_the_proof_leaves_data_where_it_is",
                "test_return_after_the_proof_must_be_proven_again",
                "test_ike_begins_nothing_at_an_unproven_address",
            ),
            *at(
                HOST_STATE,
                "test_data_stays_on_the_proven_address_and_control_goes_to_the_announced_one",
                "test_nothing_is_clear_inside_a_carrier_to_an_address_that_is_not_proven",
            ),
            *at(
                UNPROVEN,
                "test_no_socket_moves_to_an_address_that_is_not_proven",
                "test_no_filters_move_to_an_address_that_is_not_proven",
                "test_a_host_that_moves_leads_no_socket_to_a_peer_that_is_not_proven",
                "test_what_has_begun_is_let_go_when_the_address_has_changed_and_moves_nowhere",
            ),
        ),
        mutations=(
            Mutation(
                "any-response-proves",
                "the challenge in a path response is not compared",
                (
                    Edit(
                        "protocol.correspondent:Correspondent.path_response",
                        "or message.challenge != self._challenge",
                        "",
                    ),
                ),
                at(CORRESPONDENT, "test_nothing_but_the_challenge_proves"),
            ),
            Mutation(
                "late-response-proves",
                "a challenge is good for ever",
                (
                    Edit(
                        "protocol.correspondent:Correspondent.path_response",
                        "or now >= self._challenge_ends",
                        "",
                    ),
                    Edit(
                        "protocol.correspondent:Correspondent.expire",
                        "if self._challenge is None or now < self._challenge_ends:",
                        "if True:",
                    ),
                ),
                at(CORRESPONDENT, "test_without_proof_in_time_the_last_proven_address_is_current_again"),
            ),
            Mutation(
                "response-proves-another-address",
                "a challenge of one address proves the next one",
                (
                    Edit("protocol.correspondent:Correspondent._accept", "            self._challenge = None\n", ""),
                    Edit(
                        "protocol.correspondent:Correspondent.path_response",
                        "or message.sequence != self._last.sequence",
                        "",
                    ),
                ),
                at(CORRESPONDENT, "test_second_move_before_the_proof_leaves_data_where_it_is"),
            ),
            Mutation(
                "new-address-is-proven",
                "an accepted address counts as proven",
                (
                    Edit(
                        "protocol.correspondent:Correspondent._accept",
                        "if self.proven not in after.addresses:\n            self.proven = None",
                        "if True:\n            self.proven = after.current",
                    ),
                ),
                at(CORRESPONDENT, "test_registration_elsewhere_must_be_proven"),
            ),
            Mutation(
                "sockets-move-to-the-unproven-address",
                "the peer may ask for sockets to be moved before it has proven where they go",
                (
                    Edit(
                        "protocol.transfers:Transfers.requested",
                        "if not (known or (answerable and newest)):",
                        "if not (known or newest):",
                    ),
                ),
                at(UNPROVEN, "test_no_socket_moves_to_an_address_that_is_not_proven"),
            ),
            Mutation(
                "begun-transfers-go-on-to-the-unproven-address",
                "a transfer that has begun moves sockets though the peer has announced another address, not proven yet",
                (
                    Edit(
                        "protocol.follower:Follower.overtaken",
                        "if message.stage is TransferStage.MOVE and",
                        "if False and",
                    ),
                ),
                at(UNPROVEN, "test_what_has_begun_is_let_go_when_the_address_has_changed_and_moves_nowhere"),
            ),
            Mutation(
                "filters-move-to-the-unproven-address",
                "method migrate: the peer may ask for filters to be moved before it has proven where they go",
                (
                    Edit(
                        "protocol.peer:PeerMachine._requested",
                        "or not half.answerable or",
                        "or",
                    ),
                ),
                at(UNPROVEN, "test_no_filters_move_to_an_address_that_is_not_proven"),
            ),
            Mutation(
                "clear-packets-to-the-unproven-address",
                "method migrate: packets may be clear inside the carrier though its other end is not proven",
                (
                    Edit(
                        "protocol.host_state:host_state",
                        "crossing if peer_proven == peer.current else Crossing.NONE",
                        "crossing",
                    ),
                ),
                at(HOST_STATE, "test_nothing_is_clear_inside_a_carrier_to_an_address_that_is_not_proven"),
            ),
            Mutation(
                "sockets-are-led-to-the-unproven-peer",
                "a host that moves takes its sockets to the peer's address before that is proven",
                (
                    Edit(
                        "protocol.peer:PeerMachine._transferred",
                        "mobile.ready and self.correspondent.unproven is None and not",
                        "mobile.ready and not",
                    ),
                ),
                at(UNPROVEN, "test_a_host_that_moves_leads_no_socket_to_a_peer_that_is_not_proven"),
            ),
        ),
    ),
    Requirement(
        number=13,
        title="no amplification",
        text="Until it is proven, a new address gets control datagrams only, at most three times what its claimant "
        "sends; data stays on the address proven last, to which after 10 s control goes again, too. What no carrier "
        "takes is withheld.",
        sources="RFC 9000 §8, §9.3.2; RFC 8046 §5.6",
        where=(
            "protocol/credit.py",
            "protocol/host_state.py",
            "protocol/correspondent.py",
            "daemon/translation.py",
            "kernel/xfrm/guards.py",
            "kernel/carrier_routes.py",
        ),
        tests=(
            *at(
                CORRESPONDENT,
                "test_unproven_address_gets_at_most_an_answer_for_each_message",
                "test_an_unproven_address_gets_at_most_three_times_what_came_from_its_claimant",
                "test_credit_for_one_address_is_none_for_the_next",
                "test_no_data_goes_to_an_address_that_was_proven_once_before_it_is_proven_again",
                "test_without_proof_in_time_the_last_proven_address_is_current_again",
                "test_without_any_proven_address_there_is_nothing_to_go_back_to_and_data_goes_nowhere",
            ),
            *at(TRANSLATION, "test_what_is_withheld_is_stopped_before_charons_policies_and_only_on_its_way_out"),
            *at(GUARDS, "test_what_is_withheld_is_stopped_although_a_policy_lets_it_pass"),
            *at(
                HOST_STATE,
                "test_data_stays_on_the_proven_address_and_control_goes_to_the_announced_one",
                "test_older_pairs_go_through_the_proven_address_until_the_announced_one_is_proven",
                "test_no_data_goes_anywhere_when_no_address_is_proven",
                "test_no_constellation_loops_or_leaves_a_pair_unguarded",
            ),
            *at("unit/test_simulation.py", "test_dead_path_leads_back_to_the_old_address"),
            *at("kernel/test_carrier.py", "test_only_marked_esp_takes_a_control_carrier"),
            *at(
                "scenarios/test_hostile_peer.py",
                "test_a_third_party_gets_no_data_and_no_more_than_three_times_what_was_sent",
            ),
        ),
        mutations=(
            Mutation(
                "data-goes-to-the-unproven-address",
                "the carrier to an unproven address takes data, too",
                (
                    Edit(
                        "protocol.host_state:host_state",
                        "Carried(pair, announced, control_only=True)",
                        "Carried(pair, announced, control_only=False)",
                    ),
                ),
                at(HOST_STATE, "test_data_stays_on_the_proven_address_and_control_goes_to_the_announced_one"),
            ),
            Mutation(
                "data-leaves-the-proven-address",
                "data has no way any more as soon as another address is announced",
                (
                    Edit(
                        "protocol.host_state:host_state",
                        "if peer_proven is not None:",
                        "if peer_proven == peer.current:",
                    ),
                ),
                at(HOST_STATE, "test_older_pairs_go_through_the_proven_address_until_the_announced_one_is_proven"),
            ),
            Mutation(
                "control-carrier-takes-everything",
                "the kernel sends all packets of the pair into a carrier that is for control datagrams",
                (Edit("kernel.carrier_routes:Rule._message", "if self.mark:", "if False:"),),
                at("kernel/test_carrier.py", "test_only_marked_esp_takes_a_control_carrier"),
            ),
            Mutation(
                "unlimited-credit",
                "to an unproven address as much is sent as there is to say",
                (Edit("protocol.credit:Credit.spend", "if size > self._bytes:", "if False:"),),
                at(
                    CORRESPONDENT,
                    "test_an_unproven_address_gets_at_most_three_times_what_came_from_its_claimant",
                    "test_credit_for_one_address_is_none_for_the_next",
                ),
            ),
            Mutation(
                "credit-is-taken-along",
                "what came for one unproven address may be sent to the next",
                (Edit("protocol.correspondent:Correspondent._accept", "            self.credit.begin()\n", ""),),
                at(CORRESPONDENT, "test_credit_for_one_address_is_none_for_the_next"),
            ),
            Mutation(
                "nothing-is-withheld",
                "data goes natively to an address that is announced anew and was proven long ago",
                (
                    Edit(
                        "protocol.host_state:host_state",
                        "withheld = pairs if peer_proven is None else frozenset({announced})",
                        "pass",
                    ),
                ),
                at(CORRESPONDENT, "test_no_data_goes_to_an_address_that_was_proven_once_before_it_is_proven_again"),
            ),
            Mutation(
                "withheld-after-charons-policies",
                "what is withheld is stopped only where charon protects nothing",
                (
                    Edit(
                        "kernel.xfrm.guards:withheld",
                        "replace(guarding, priority=WITHHELD_PRIORITY)",
                        "replace(guarding)",
                    ),
                ),
                at(GUARDS, "test_what_is_withheld_is_stopped_although_a_policy_lets_it_pass"),
            ),
            Mutation(
                "no-fall-back",
                "a binding without proof stays for ever",
                (Edit("protocol.correspondent:Correspondent.expire", "return self._fall_back()", "return []"),),
                at(CORRESPONDENT, "test_without_proof_in_time_the_last_proven_address_is_current_again"),
            ),
        ),
    ),
    Requirement(
        number=14,
        title="rewritten outer header",
        text="The new address is the one in the authenticated message; the outer header of the packet is never looked "
        "at, so rewriting it moves nothing.",
        sources="RFC 4555 §3.9, §5.1",
        where=("protocol/correspondent.py", "daemon/control_channel.py"),
        tests=(
            *at(CORRESPONDENT, "test_registration_elsewhere_must_be_proven"),
            *at("unit/test_messages.py", "test_bytes_on_the_wire_never_change"),
        ),
        state=State.PARTLY,
        remark="No mutation: nothing reads the outer header that could be switched off. A difference between header "
        "and message is not noticed either (the carrier's outer addresses are not authenticated); what the message "
        "announces has to be proven. No test forges a header on the wire.",
    ),
    Requirement(
        number=15,
        title="copies that overtake",
        text="A copy of a genuine packet that somebody forwards from another address moves no data.",
        sources="RFC 9000 §9.3.3",
        where=("protocol/correspondent.py", "kernel/ingress.py"),
        tests=(
            *at(
                CORRESPONDENT,
                "test_repeated_change_is_answered_the_same_and_does_nothing",
                "test_nothing_but_the_challenge_proves",
            ),
            *at(INGRESS, "test_clear_inner_packets_from_anybody_else_are_dropped"),
        ),
        mutations=(
            Mutation(
                "clear-packets-from-anybody",
                "method migrate: what is clear inside the carrier is taken from any outer address",
                (
                    Edit("kernel.ingress:Ingress._flower", "if item.clear is not None:", "if False:"),
                    # It would be taken for somebody else's, and removed.
                    Edit(
                        "kernel.ingress:Ingress.retain",
                        "if installed.filter in wanted:",
                        "if installed.filter in wanted or installed.filter is None:",
                    ),
                ),
                at(INGRESS, "test_clear_inner_packets_from_anybody_else_are_dropped"),
            ),
        ),
        remark="What counts is the address in the message, as for SEC-14; no test forwards a copy on the wire.",
    ),
    Requirement(
        number=16,
        title="no open decapsulator",
        text="Out of the carrier come only ESP and IKE of pairs that are managed, and none is left behind.",
        sources="CVE-2020-10136; RFC 6169 §2; RFC 6275 §15.7",
        where=("kernel/ingress.py", "kernel/carrier.py", "kernel/carrier_devices.py", "daemon/translation.py"),
        tests=(
            *at(
                INGRESS,
                "test_what_is_not_admitted_is_dropped_and_counted",
                "test_of_an_admitted_pair_only_esp_and_ike_pass",
                "test_fragments_pass_only_of_esp",
                "test_a_pair_is_no_longer_admitted_after_it_is_withdrawn",
                "test_the_default_drop_stands_before_the_device_is_up",
            ),
            *at("kernel/test_carrier.py", "test_clear_leaves_nothing"),
            *at(TRANSLATION, "test_a_carried_pair_is_a_carrier_and_an_admitted_pair_is_seen_from_outside"),
        ),
        mutations=(
            Mutation(
                "ingress-has-no-default",
                "what no filter admits passes",
                (Edit("kernel.ingress:Ingress.close", "if await self._default_drop() is None:", "if False:"),),
                at(INGRESS, "test_what_is_not_admitted_is_dropped_and_counted"),
            ),
            Mutation(
                "ingress-takes-other-ports",
                "of an admitted pair another UDP port passes besides IKE's",
                (Edit("kernel.ingress:_filters", "for port in IKE_PORTS}", "for port in (*IKE_PORTS, 9)}"),),
                at(INGRESS, "test_of_an_admitted_pair_only_esp_and_ike_pass"),
            ),
            Mutation(
                "ingress-keeps-withdrawn-pairs",
                "filters of pairs that are no longer managed stay",
                (Edit("kernel.ingress:Ingress.retain", "if installed.filter in wanted:", "if True:"),),
                at(INGRESS, "test_a_pair_is_no_longer_admitted_after_it_is_withdrawn"),
            ),
        ),
        state=State.PARTLY,
        remark="Neither the outer addresses of ESP and IKE nor the SPI are compared (kernel/ingress.py says why), and "
        "a pair is admitted as long as its peer is managed, not only during a handover. Of tunl0 and ip6tnl0, which "
        "are not ours, `swanroam run` warns.",
    ),
    Requirement(
        number=17,
        title="no tunnel in itself",
        text="No constellation of addresses makes a carrier whose outer packets are carried again.",
        sources="RFC 6275 §15.1",
        where=("kernel/carrier_settings.py", "protocol/host_state.py"),
        tests=(
            *at(SETTINGS, "test_a_carrier_inside_a_carrier_is_refused"),
            *at(HOST_STATE, "test_no_constellation_loops_or_leaves_a_pair_unguarded"),
        ),
        mutations=(
            Mutation(
                "carrier-may-be-carried",
                "carriers in carriers are not refused",
                (
                    Edit(
                        "kernel.carrier_settings:check",
                        "if (carrier.outer_local, carrier.outer_remote) in forbidden:",
                        "if False:",
                    ),
                ),
                at(SETTINGS, "test_a_carrier_inside_a_carrier_is_refused"),
            ),
            Mutation(
                "current-pair-is-carried",
                "the pair of current addresses gets a carrier, too",
                (
                    Edit(
                        "protocol.host_state:host_state",
                        "for pair in pairs if pair not in (reachable, announced)",
                        "for pair in pairs",
                    ),
                ),
                at(HOST_STATE, "test_no_constellation_loops_or_leaves_a_pair_unguarded"),
            ),
        ),
    ),
)
