"""Keys, sequence numbers of ESP, and what else of an SA must not be lost or told."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, State, at

CLONES = "unit/test_xfrm_clones.py"
SECRETS = "unit/test_xfrm_secrets.py"
ESP = "kernel/test_xfrm_esp.py"
PRIVILEGES = "kernel/test_privileges.py"
DIRECTORIES = "test_state_is_for_the_user_alone_and_the_runtime_directory_for_its_group_whatever_the_umask"

REQUIREMENTS = (
    Requirement(
        number=18,
        title="no nonce twice",
        text="Of the SAs with one key and SPI at most one can send; what replaces an SA never begins at a lower "
        "sequence number.",
        sources="RFC 4106 §10; RFC 4303 §3.3.3",
        where=("ike/migrate.py", "kernel/xfrm/states.py"),
        tests=(
            *at(CLONES, "test_inbound_clone_differs_in_its_destination_only"),
            *at(
                ESP,
                "test_clone_accepts_a_second_destination_on_the_same_keys",
                "test_widened_association_accepts_a_second_source",
            ),
            *at("unit/test_lab_capture.py", "test_a_nonce_that_is_used_for_two_contents_is_found"),
            *at("scenarios/test_migrate.py", "test_soft_and_hard_move"),
            *at("scenarios/test_soft_move.py", "test_nothing_is_lost_when_the_new_address_comes_first"),
        ),
        remark="No mutation: the daemon makes SAs of its own with method migrate only, and those only receive; there "
        "is nothing to switch off. Each lab scenario's capture is searched for two packets of one SPI with one "
        "sequence number or IV, whoever made the SA.",
    ),
    Requirement(
        number=19,
        title="no replay between copies of an SA",
        text="A packet that the SA of the old address has taken is not taken again when it is sent to the new one.",
        sources="RFC 4303 §3.4.3",
        where=("ike/renegotiate.py", "ike/migrate.py", "kernel/xfrm/states.py"),
        tests=(
            *at(CLONES, "test_inbound_clone_differs_in_its_destination_only"),
            *at(CLONES, "test_widened_source_accepts_any_address_and_nothing_else_more"),
            *at(
                ESP,
                "test_no_packet_arrives_a_second_time_at_the_address_of_a_copy",
                "test_widened_association_accepts_a_second_source",
            ),
        ),
        mutations=(
            Mutation(
                "copied-sa-forgets-its-window",
                "the copy of an SA for another address begins with an empty replay window",
                (
                    Edit(
                        "kernel.xfrm.states:clone_inbound",
                        "return replace(association, daddr=daddr,",
                        "return replace(association, replay=type(association.replay)(), daddr=daddr,",
                    ),
                ),
                at(ESP, "test_no_packet_arrives_a_second_time_at_the_address_of_a_copy"),
            ),
            Mutation(
                "widened-sa-forgets-its-window",
                "an SA that is to accept another source begins with an empty replay window",
                (
                    Edit(
                        "kernel.xfrm.states:widen_source",
                        "return replace(association, saddr=anywhere,",
                        "return replace(association, replay=None, saddr=anywhere,",
                    ),
                ),
                at(CLONES, "test_widened_source_accepts_any_address_and_nothing_else_more"),
            ),
        ),
        state=State.PARTLY,
        remark="Met by method renegotiate (other keys) and for the correspondent of method migrate (one SA, one "
        "window). On the mobile host of method migrate the copy has a window of its own from then on: what comes later "
        "is taken once by each of the two. TCP and UDP drop it then, because their checksum covers the address; a "
        "control message is recognised (SEC-07).",
    ),
    Requirement(
        number=20,
        title="lifetimes go on",
        text="Limits of bytes, packets and time are not reset when an SA is copied or replaced.",
        sources="RFC 4301 §4.4.2.1",
        where=("kernel/xfrm/states.py",),
        tests=(
            *at(
                CLONES,
                "test_inbound_clone_differs_in_its_destination_only",
                "test_widened_source_accepts_any_address_and_nothing_else_more",
            ),
            *at(ESP, "test_replaced_association_counts_on"),
        ),
        mutations=(
            Mutation(
                "replaced-sa-counts-anew",
                "what an SA has used up is forgotten when it is replaced",
                (
                    Edit(
                        "kernel.xfrm.states:widen_source",
                        "return replace(association, saddr=anywhere,",
                        "return replace(association, usage=type(association.usage)(), saddr=anywhere,",
                    ),
                ),
                at(CLONES, "test_widened_source_accepts_any_address_and_nothing_else_more"),
            ),
        ),
    ),
    Requirement(
        number=21,
        title="key hygiene",
        text="No key is in logs, errors, core dumps or files; state files and sockets are for the daemon's user and "
        "its group; the daemon and the mover keep no right in force that they do not need.",
        sources="RFC 4301 §4.4.2.1; capabilities(7)",
        where=(
            "kernel/xfrm/algorithms.py",
            "daemon/journal.py",
            "daemon/api.py",
            "daemon/run.py",
            "kernel/privileges.py",
            "transport/privileges.py",
        ),
        tests=(
            *at(
                SECRETS,
                "test_association_prints_names_and_no_keys",
                "test_message_request_and_event_print_no_keys",
                "test_decode_errors_show_no_octets",
                "test_key_is_not_pickled_logged_or_copied_out",
                "test_association_is_not_turned_into_a_dictionary",
            ),
            *at("unit/test_journal.py", "test_nobody_else_may_read_it"),
            *at("unit/test_api.py", "test_the_socket_is_for_its_owner_and_group_and_replaces_one_left_by_a_crash"),
            *at("unit/test_cli.py", DIRECTORIES),
            *at("kernel/test_mover.py", "test_the_mover_and_its_tracer_keep_few_rights"),
            *at(
                PRIVILEGES,
                "test_what_is_laid_aside_is_out_of_force_and_can_still_be_handed_on",
                "test_what_is_given_up_is_gone_for_everything_that_is_started",
                "test_no_core_is_written_where_dumping_is_forbidden",
            ),
            *at("kernel/test_api_access.py", "test_a_user_outside_of_the_group_is_told_which_one_it_is"),
            *at(
                "scenarios/test_least_privilege.py",
                "test_a_handover_as_an_unprivileged_user_moves_the_sockets_and_shows_no_key",
            ),
        ),
        mutations=(
            Mutation(
                "key-is-printed",
                "the printed form of a key shows it",
                (Edit("kernel.xfrm.algorithms:KeyMaterial.__repr__", '"<key redacted>"', "repr(self._octets)"),),
                at(SECRETS, "test_association_prints_names_and_no_keys"),
            ),
            Mutation(
                "key-can-be-copied",
                "a key can be pickled and copied",
                (
                    Edit(
                        "kernel.xfrm.algorithms:KeyMaterial.__reduce__",
                        'raise TypeError("key material is not written anywhere")',
                        "return KeyMaterial, (self._octets,)",
                    ),
                ),
                at(SECRETS, "test_key_is_not_pickled_logged_or_copied_out"),
            ),
            Mutation(
                "journal-is-for-all",
                "everybody may read the journal",
                (Edit("daemon.journal:Journal._replace", "0o600", "0o644"),),
                at("unit/test_journal.py", "test_nobody_else_may_read_it"),
            ),
            Mutation(
                "api-is-for-all",
                "everybody may give orders to the daemon",
                (Edit("daemon.api:Api.open", "0o660", "0o666"),),
                at("unit/test_api.py", "test_the_socket_is_for_its_owner_and_group_and_replaces_one_left_by_a_crash"),
            ),
            Mutation(
                "directories-are-for-all",
                "everybody may look into the daemon's directories",
                (
                    Edit(
                        "daemon.run:single_instance",
                        "0o750), (config.state_directory, 0o700)",
                        "0o755), (config.state_directory, 0o755)",
                    ),
                ),
                at("unit/test_cli.py", DIRECTORIES),
            ),
            Mutation(
                "mover-keeps-its-rights",
                "the mover keeps all capabilities that it was started with",
                (
                    Edit(
                        "transport.privileges:drop",
                        "        give_up_all_but(keep)\n",
                        "",
                    ),
                ),
                at("kernel/test_mover.py", "test_the_mover_and_its_tracer_keep_few_rights"),
            ),
            Mutation(
                "rights-stay-in-force",
                "the daemon lays nothing aside of what only the mover needs",
                (Edit("kernel.privileges:lay_aside", "in_force & ~_bits(capabilities)", "in_force"),),
                at(PRIVILEGES, "test_what_is_laid_aside_is_out_of_force_and_can_still_be_handed_on"),
            ),
            Mutation(
                "cores-are-dumped",
                "core dumps of the daemon and the mover are not forbidden",
                (
                    Edit(
                        "kernel.privileges:forbid_dumping",
                        "    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))\n"
                        '    prctl("forbid dumping", _PR_SET_DUMPABLE, 0)\n',
                        "",
                    ),
                ),
                at(PRIVILEGES, "test_no_core_is_written_where_dumping_is_forbidden"),
            ),
        ),
        state=State.PARTLY,
        remark="Who may use charon's VICI socket is not checked. SAs with their keys pass through the daemon's memory, "
        "which nobody without CAP_SYS_PTRACE can read and of which no core is dumped.",
    ),
    Requirement(
        number=22,
        title="rekeying during a move",
        text="When a rekey and a move collide, one pair of SAs is left, nothing is in clear, nothing is orphaned.",
        sources="RFC 7296 §2.8, §2.25",
        where=("ike/renegotiate.py", "ike/migrate.py", "ike/readback.py", "daemon/doubles.py"),
        tests=(
            *at(
                "scenarios/test_moves_in_sequence.py",
                "test_back_within_grace_and_rekeys_while_both_addresses_are_in_use",
            ),
            *at(
                "scenarios/test_hard_conditions.py",
                "test_sas_that_are_new_when_the_clock_jumps_expire_and_are_made_anew",
            ),
            *at("unit/test_doubles.py", "test_of_two_child_sas_that_are_the_same_the_younger_is_ended"),
            *at("unit/test_charon_learning.py", "test_a_child_sa_that_is_there_twice_is_ended_once"),
            *at(
                "scenarios/test_migrate.py",
                "test_back_within_grace_and_moves_in_a_row",
                "test_what_was_left_is_kept_for_each_address",
            ),
            *at("scenarios/test_transport_interrupted.py", "test_everything_is_rekeyed_while_sockets_move"),
            *at("unit/test_readback.py", "test_a_contradiction_of_the_moment_is_not_believed"),
        ),
        mutations=(
            Mutation(
                "contradictions-are-believed-at-once",
                "kernel and charon are read once, though a rekey may be between the two readings",
                (
                    Edit(
                        "ike.readback:read_back",
                        "if not found or reading == READINGS:",
                        "if True:",
                    ),
                ),
                at("unit/test_readback.py", "test_a_contradiction_of_the_moment_is_not_believed"),
            ),
            Mutation(
                "any-copy-is-kept",
                "method migrate: what is kept for the address just left may be what was kept for another one",
                (
                    Edit(
                        "ike.migrate:Migrate._receiving",
                        "if one.selector.user != _Label.CLONE.number(identity)",
                        "if True",
                    ),
                ),
                at("scenarios/test_migrate.py", "test_what_was_left_is_kept_for_each_address"),
            ),
            Mutation(
                "double-child-sas-stay",
                "a CHILD_SA that both hosts have made at the same moment is left there twice",
                (Edit("daemon.doubles:Doubles.children", "if not ike_sa.initiator", "if True"),),
                at("unit/test_doubles.py", "test_of_two_child_sas_that_are_the_same_the_younger_is_ended"),
            ),
        ),
        state=State.PARTLY,
        remark="Rekeying itself is charon's; the tests rekey in the middle of a move, but do not force each order of "
        "the two exchanges.",
    ),
)
