"""Protected traffic in clear."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, State, at

TRANSLATION = "unit/test_translation.py"
BOTH_WAYS = "test_every_guarded_pair_is_blocked_both_ways_for_the_traffic_that_is_protected"
POLICIES = "kernel/test_xfrm_policies.py"
DATAGRAM = "kernel/test_transport_datagram.py"
POLICY_OF_ITS_OWN = "test_what_lets_a_socket_off_the_policies_does_not_outlive_the_process_that_dies"
GUARDS = "kernel/test_xfrm_guards.py"
ORDER = "unit/test_host_order.py"
HOST_STATE = "unit/test_host_state.py"
LATECOMERS = "kernel/test_latecomers.py"
PASSED_ON = "test_what_comes_for_the_old_address_follows_the_socket_past_what_the_new_one_demands"
WATCH = "unit/test_charon_learning.py"
CARRIER_CHILD = "test_without_a_child_that_protects_the_carrier_nothing_is_migrated"
CLEAR_GUARDS = "            await clear_owned(self._xfrm)\n            await self._inner.clear()\n"

REQUIREMENTS = (
    Requirement(
        number=23,
        title="no moment in clear",
        text="Guards come before what needs them and go after it, on both hosts; whatever is moved, lost or killed, no "
        "packet of protected traffic leaves in clear.",
        sources="RFC 4301 §4.4.1, §5.1",
        where=(
            "protocol/host_state.py",
            "daemon/charon.py",
            "daemon/translation.py",
            "daemon/host.py",
            "kernel/xfrm/guards.py",
            "kernel/xfrm/policies.py",
            "kernel/xfrm/passes.py",
            "transport/latecomers.py",
            "transport/bypass.py",
        ),
        tests=(
            *at(
                TRANSLATION,
                BOTH_WAYS,
                "test_nothing_unprotected_leaves_to_a_peer_from_an_address_that_is_not_known_yet",
            ),
            *at(
                WATCH,
                "test_what_was_protected_once_stays_guarded",
                "test_filters_stand_when_each_child_is_there_and_the_kernel_has_it",
            ),
            *at("unit/test_migrate_refusals.py", CARRIER_CHILD),
            *at(HOST_STATE, "test_no_constellation_loops_or_leaves_a_pair_unguarded"),
            *at(
                ORDER,
                "test_the_prefix_is_guarded_before_it_is_used_and_all_guards_go_last",
                "test_clear_packets_are_stopped_before_the_carrier_is_changed_and_let_in_afterwards",
                "test_what_stays_clear_inside_is_stopped_while_its_carrier_gets_other_ends",
                "test_from_any_state_to_any_other_and_after_a_failure_at_any_step",
            ),
            *at(
                POLICIES,
                "test_changes_are_made_blocks_first_and_removed_blocks_last",
                "test_nothing_is_deleted_when_something_cannot_be_added",
            ),
            *at(
                GUARDS,
                "test_guard_stops_clear_packets_as_soon_as_no_policy_before_it_selects_them",
                "test_a_new_address_sends_nothing_in_clear_to_a_peer_that_is_guarded_from_everywhere",
            ),
            *at("unit/test_simulation.py", "test_crash_of_either_controller_at_any_moment_of_a_move"),
            *at(
                "scenarios/test_restart.py",
                "test_controllers_take_over_what_connections_need",
                "test_a_charon_that_comes_back_is_worked_with_again",
            ),
            *at(LATECOMERS, PASSED_ON),
            *at(DATAGRAM, POLICY_OF_ITS_OWN),
            *at("scenarios/test_hard_move.py", "test_only_what_nobody_could_deliver_is_lost"),
            *at("scenarios/test_native.py", "test_connections_run_natively_after_soft_and_hard_moves"),
            *at("scenarios/test_killed_at_steps.py", "test_killed_at_a_few_steps"),
            *at("scenarios/test_charon_killed.py", "test_charon_killed_at_a_few_steps"),
            *at(
                "scenarios/test_transport_interrupted.py",
                "test_a_daemon_is_killed_while_sockets_move",
                "test_movers_and_nurseries_are_killed_while_sockets_move",
            ),
        ),
        mutations=(
            Mutation(
                "no-guards",
                "what no CHILD_SA protects is not stopped",
                (Edit("daemon.translation:kernel_state", "for pair in state.guarded:", "for pair in ():"),),
                at(TRANSLATION, BOTH_WAYS),
            ),
            Mutation(
                "socket-policies-outlive-their-maker",
                "what lets a socket off the policies is not taken away by who goes on for a dead process",
                (Edit("transport.binding:restore", "bypass.take_off(sock, found.mark, wanted.mark)", "pass"),),
                at(DATAGRAM, POLICY_OF_ITS_OWN),
            ),
            Mutation(
                "only-the-current-pair-is-guarded",
                "old addresses are not guarded",
                (
                    Edit(
                        "protocol.host_state:host_state",
                        "guarded=pairs | lingering | associated,",
                        "guarded=frozenset({announced}),",
                    ),
                ),
                at(HOST_STATE, "test_no_constellation_loops_or_leaves_a_pair_unguarded"),
            ),
            Mutation(
                "new-addresses-are-not-guarded",
                "a socket without an address may send in clear from a new address that swanroam has not heard of yet",
                (Edit("daemon.translation:kernel_state", "if remote.version in facts.sealed:", "if False:"),),
                at(TRANSLATION, "test_nothing_unprotected_leaves_to_a_peer_from_an_address_that_is_not_known_yet"),
            ),
            Mutation(
                "guards-go-with-the-child-sa",
                "what a CHILD_SA protected is not guarded any more when charon has it no more",
                (Edit("daemon.charon:CharonWatch._learn", "else protected | peer.protected", "else protected"),),
                at(WATCH, "test_what_was_protected_once_stays_guarded"),
            ),
            Mutation(
                "passes-for-the-wire",
                "what may be handed on to a socket's new address in clear may also come from the wire",
                (Edit("kernel.xfrm.passes:admission", "limits=limits, mark=mark)", "limits=limits)"),),
                at(LATECOMERS, PASSED_ON),
            ),
            Mutation(
                "strangers-datagrams-are-handed-on",
                "what others than the peer send to an address that a socket has left is handed on as the peer's",
                (
                    Edit(
                        "transport.latecomers:_socket_at",
                        "sock.connect(_address(remote, remote_port))",
                        "pass",
                    ),
                ),
                at(LATECOMERS, PASSED_ON),
            ),
            Mutation(
                "filters-stand-without-the-kernel",
                "what charon says counts, though the kernel does not have it",
                (Edit("daemon.charon:CharonWatch._association", "complete = intact and all(", "complete = all("),),
                at(WATCH, "test_filters_stand_when_each_child_is_there_and_the_kernel_has_it"),
            ),
            Mutation(
                "carrier-need-not-be-protected",
                "method migrate is used where no CHILD_SA protects the carrier",
                (
                    Edit(
                        "ike.migrate:Migrate.move",
                        "if present and not any(map(_protects_carrier, present)):",
                        "if False:",
                    ),
                ),
                at("unit/test_migrate_refusals.py", CARRIER_CHILD),
            ),
            Mutation(
                "guards-go-first",
                "when everything of swanroam's is taken away, guards go before what they guard",
                (Edit("daemon.host:LocalHost.clear", "            await self._inner.clear()\n", CLEAR_GUARDS),),
                at(ORDER, "test_the_prefix_is_guarded_before_it_is_used_and_all_guards_go_last"),
            ),
            Mutation(
                "guards-do-not-block",
                "a guard allows what it should stop",
                (Edit("kernel.xfrm.guards:guard", "Action.BLOCK", "Action.ALLOW"),),
                at(GUARDS, "test_guard_stops_clear_packets_as_soon_as_no_policy_before_it_selects_them"),
            ),
            Mutation(
                "allowed-before-blocked",
                "policies that allow are added before those that block, and removed after them",
                (
                    Edit(
                        "kernel.xfrm.policies:_split",
                        "(blocks if policy.action is Action.BLOCK else allows)",
                        "(allows if policy.action is Action.BLOCK else blocks)",
                    ),
                ),
                at(POLICIES, "test_changes_are_made_blocks_first_and_removed_blocks_last"),
            ),
            Mutation(
                "clear-packets-while-the-carrier-changes",
                "method migrate: what may be clear inside the carrier is not stopped while the carrier is changed",
                (Edit("daemon.host:LocalHost._guard", "if same_carrier:", "if True:"),),
                at(ORDER, "test_what_stays_clear_inside_is_stopped_while_its_carrier_gets_other_ends"),
            ),
            Mutation(
                "no-guards-on-the-wire",
                "neither is stopped what no CHILD_SA protects nor what has no address yet; seen by the capture while "
                "charon is down",
                (
                    Edit("daemon.translation:kernel_state", "for pair in state.guarded:", "for pair in ():"),
                    Edit("daemon.translation:_seal", "for traffic in protected", "for traffic in ()"),
                ),
                at("scenarios/test_restart.py", "test_a_charon_that_comes_back_is_worked_with_again"),
            ),
        ),
        state=State.PARTLY,
        remark="Not before a peer has registered. On a host that forwards packets of others, and without `guard_new: "
        "always`, a socket without a source address of its own may send in clear in the milliseconds until a new "
        "address is guarded (security.md).",
    ),
    Requirement(
        number=24,
        title="no other way out",
        text="What has an old source leaves by the carrier or not at all, and nothing but IP-in-IP and neighbor "
        "discovery passes beside the SAs.",
        sources="RFC 4301 §4.4.1, §5.1",
        where=("kernel/carrier_routes.py", "kernel/carrier.py", "kernel/xfrm/guards.py"),
        tests=(
            *at("kernel/test_carrier.py", "test_carried_packets_go_nowhere_else_when_the_device_is_gone"),
            *at(
                GUARDS,
                "test_bypass_lets_ip_in_ip_pass_and_nothing_else",
                "test_carried_packets_may_leave_by_the_carriers_device_only",
                "test_guarded_neighbors_still_find_each_other_on_the_link",
            ),
            *at("unit/test_xfrm_guards.py", "test_only_ip_in_ip_is_bypassed"),
        ),
        mutations=(
            Mutation(
                "everything-is-bypassed",
                "the bypass for the carrier lets every protocol pass",
                (Edit("kernel.xfrm.guards:bypass", "destination, protocol=protocol, user", "destination, user"),),
                at(GUARDS, "test_bypass_lets_ip_in_ip_pass_and_nothing_else"),
            ),
            Mutation(
                "carried-packets-by-any-device",
                "method migrate, IPv4: what may be clear in the carrier may leave by any device",
                (
                    Edit(
                        "kernel.xfrm.guards:carried_inner_out",
                        "carrier_ifindex if source.version == 4 else 0",
                        "0",
                    ),
                ),
                at(GUARDS, "test_carried_packets_may_leave_by_the_carriers_device_only"),
            ),
            Mutation(
                "carriers-table-is-open",
                "what finds no route in the carrier's table takes the next table's",
                (
                    Edit(
                        "kernel.carrier_routes:ClosingRoute.add",
                        'await netlink.execute(message, RTM_NEWROUTE, REPLACE, f"add {self}")',
                        "pass",
                    ),
                ),
                at("kernel/test_carrier.py", "test_carried_packets_go_nowhere_else_when_the_device_is_gone"),
            ),
        ),
        state=State.PARTLY,
        remark="Method migrate with IPv6: who changes the routing by hand after a move can send new connections "
        "from the old address out in clear (security.md).",
    ),
    Requirement(
        number=25,
        title="ICMP errors",
        text="An ICMP error tells nobody what is protected, and one that is not authenticated is a hint at most.",
        sources="RFC 4555 §3.5, §5.4; RFC 4301 §6",
        where=("daemon/translation.py", "kernel/ingress.py"),
        tests=(
            *at(TRANSLATION, BOTH_WAYS),
            *at(GUARDS, "test_guard_drops_clear_packets_that_come_in"),
            *at("kernel/test_carrier.py", "test_a_narrow_path_is_no_black_hole"),
            *at("unit/test_control_channel.py", "test_an_icmp_error_is_counted_and_what_comes_after_it_is_read"),
        ),
        mutations=(
            Mutation(
                "guards-for-one-way",
                "what comes in clear from a managed peer is accepted",
                (Edit("daemon.translation:_guards", "Direction.IN", "Direction.OUT"),),
                at(TRANSLATION, BOTH_WAYS),
            ),
            Mutation(
                "icmp-error-ends-the-reading",
                "the control channel is not read on after an ICMP error",
                (
                    Edit(
                        "daemon.control_channel:ControlChannel._readable",
                        "                continue\n",
                        "                return\n",
                    ),
                ),
                at("unit/test_control_channel.py", "test_an_icmp_error_is_counted_and_what_comes_after_it_is_read"),
            ),
        ),
        state=State.PARTLY,
        remark="Nothing in swanroam acts on ICMP errors, it counts them at most; guards stop them in clear like all "
        "that the CHILD_SAs protect. No test sends one; where CHILD_SAs protect single protocols, ICMP is not "
        "guarded.",
    ),
)
