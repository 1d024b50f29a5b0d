"""Keys, sequence numbers of ESP, and what else of an SA must not be lost or told."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, State, at

CLONES = "unit/test_xfrm_clones.py"
SECRETS = "unit/test_xfrm_secrets.py"
ESP = "kernel/test_xfrm_esp.py"

REQUIREMENTS = (
    Requirement(
        number=18,
        title="no nonce twice",
        text="Of the SAs with one key and SPI at most one can send; what replaces an SA never begins at a lower "
        "sequence number.",
        sources="RFC 4106 §10; RFC 4303 §3.3.3",
        where=("ike/migrate.py", "kernel/xfrm/states.py", "kernel/xfrm/replay.py"),
        tests=(
            *at(
                CLONES,
                "test_margin_without_extended_numbers",
                "test_margin_carries_into_the_high_half_of_extended_numbers",
                "test_short_sequence_numbers_never_wrap",
                "test_inbound_clone_differs_in_its_destination_only",
            ),
            *at(
                ESP,
                "test_clone_accepts_a_second_destination_on_the_same_keys",
                "test_widened_association_accepts_a_second_source",
            ),
            *at("unit/test_lab_capture.py", "test_a_sequence_number_that_is_used_twice_is_found_wherever_it_goes"),
            *at("scenarios/test_migrate.py", "test_soft_and_hard_move"),
            *at("scenarios/test_soft_move.py", "test_nothing_is_lost_when_the_new_address_comes_first"),
        ),
        mutations=(
            Mutation(
                "no-sequence-number-is-skipped",
                "an SA that replaces one that sends begins where that was seen last",
                (Edit("kernel.xfrm.replay:ReplayState.advanced", "oseq=self.oseq + margin", "oseq=self.oseq"),),
                at(CLONES, "test_margin_without_extended_numbers"),
            ),
            Mutation(
                "sequence-numbers-wrap",
                "an SA without numbers left goes on",
                (Edit("kernel.xfrm.replay:ReplayState.advanced", "if self.oseq + margin >", "if False and margin >"),),
                at(CLONES, "test_short_sequence_numbers_never_wrap"),
            ),
        ),
        remark="The daemon makes SAs of its own with method migrate only, and those only receive.",
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
        text="No key is in logs, errors or files; state files and sockets are for root and its group; the mover keeps "
        "no right that it does not need.",
        sources="RFC 4301 §4.4.2.1; capabilities(7)",
        where=(
            "kernel/xfrm/algorithms.py",
            "daemon/journal.py",
            "daemon/api.py",
            "daemon/run.py",
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
            *at("unit/test_cli.py", "test_the_directories_are_made_for_root_alone"),
            *at("kernel/test_mover.py", "test_the_mover_and_its_tracer_keep_few_rights"),
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
                (Edit("daemon.journal:Journal.store", "0o600", "0o644"),),
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
                "the directories are made as the umask says",
                (Edit("daemon.run:single_instance", "mode=0o750, ", ""),),
                at("unit/test_cli.py", "test_the_directories_are_made_for_root_alone"),
            ),
            Mutation(
                "mover-keeps-its-rights",
                "the mover keeps all capabilities that it was started with",
                (
                    Edit(
                        "transport.privileges:drop",
                        "kept = permitted & sum(1 << capability for capability in keep)",
                        "kept = permitted",
                    ),
                ),
                at("kernel/test_mover.py", "test_the_mover_and_its_tracer_keep_few_rights"),
            ),
        ),
        state=State.PARTLY,
        remark="Who may use charon's VICI socket is not checked. With method migrate SAs with their keys pass through "
        "the daemon's memory, of which core dumps are not forbidden.",
    ),
    Requirement(
        number=22,
        title="rekeying during a move",
        text="When a rekey and a move collide, one pair of SAs is left, nothing is in clear, nothing is orphaned.",
        sources="RFC 7296 §2.8, §2.25",
        where=("ike/renegotiate.py", "ike/migrate.py", "ike/readback.py"),
        tests=(
            *at(
                "scenarios/test_moves_in_sequence.py",
                "test_back_within_grace_and_rekeys_while_both_addresses_are_in_use",
            ),
            *at("scenarios/test_migrate.py", "test_back_within_grace_and_moves_in_a_row"),
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
        ),
        state=State.PARTLY,
        remark="Rekeying itself is charon's; the tests rekey in the middle of a move, but do not force each order of "
        "the two exchanges.",
    ),
)
