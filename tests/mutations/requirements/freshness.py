"""Old, doubled and overtaken messages; clocks."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, State, at

CORRESPONDENT = "unit/test_correspondent.py"
MOBILE = "unit/test_mobile.py"
JOURNAL = "unit/test_journal.py"
CONTROLLER = "unit/test_controller.py"
UNPROVEN = "unit/test_unproven_peer.py"

REQUIREMENTS = (
    Requirement(
        number=7,
        title="replayed change",
        text="The same change once more, newly encrypted or not, is answered and changes nothing.",
        sources="RFC 6275 §15.4.4; RFC 7296 §2.23",
        where=("protocol/correspondent.py",),
        tests=(
            *at(
                CORRESPONDENT,
                "test_repeated_change_is_answered_the_same_and_does_nothing",
                "test_older_or_contradicting_change_is_stale",
            ),
            *at("scenarios/test_message_loss.py", "test_lost_doubled_and_overtaken_messages"),
        ),
        mutations=(
            Mutation(
                "repeated-change-is-new",
                "a change that was carried out is not recognised when it comes again",
                (
                    Edit(
                        "protocol.correspondent:Correspondent.changed",
                        "if repeated and not self.fallen_back:",
                        "if False:",
                    ),
                ),
                at(CORRESPONDENT, "test_repeated_change_is_answered_the_same_and_does_nothing"),
            ),
        ),
        remark="That the same ESP packet is refused is the kernel's doing (RFC 4303 §3.4.3), and not tested here.",
    ),
    Requirement(
        number=8,
        title="stale answers",
        text="An acknowledgment, or another answer, to the move before does nothing once another one has begun.",
        sources="RFC 4555 §3.5",
        where=("protocol/announcer.py", "protocol/peer.py", "protocol/filter_moves.py"),
        tests=(
            *at(
                MOBILE,
                "test_acknowledgment_of_an_overtaken_move_is_ignored",
                "test_acknowledgment_by_somebody_who_never_saw_the_change_is_ignored",
            ),
            *at(UNPROVEN, "test_a_reply_about_filters_of_an_overtaken_move_moves_nothing"),
        ),
        mutations=(
            Mutation(
                "any-acknowledgment-counts",
                "sequence and nonce of an acknowledgment are not compared",
                (
                    Edit(
                        "protocol.announcer:Announcer.answered",
                        "message.sequence != self.sequence or message.nonce != self._nonce or",
                        "",
                    ),
                ),
                at(MOBILE, "test_acknowledgment_of_an_overtaken_move_is_ignored"),
            ),
            Mutation(
                "nonce-is-not-compared",
                "who guesses the sequence can acknowledge",
                (
                    Edit(
                        "protocol.announcer:Announcer.answered",
                        "or message.nonce != self._nonce",
                        "",
                    ),
                ),
                at(MOBILE, "test_acknowledgment_by_somebody_who_never_saw_the_change_is_ignored"),
            ),
            Mutation(
                "late-reply-moves-filters",
                "method migrate: the answer to a request of an overtaken move counts for the present one",
                (
                    Edit(
                        "protocol.peer:PeerMachine._replied",
                        "if message.sequence != self.mobile.sequence:",
                        "if False:",
                    ),
                ),
                at(UNPROVEN, "test_a_reply_about_filters_of_an_overtaken_move_moves_nothing"),
            ),
        ),
    ),
    Requirement(
        number=9,
        title="order of changes",
        text="A change with a lower sequence than the last, and what belongs to one, is not carried out; a transfer of "
        "sockets that has begun is let go.",
        sources="RFC 4555 §3.5; RFC 6275 §9.5.1",
        where=(
            "protocol/correspondent.py",
            "protocol/peer.py",
            "protocol/transfers.py",
            "protocol/leader.py",
            "protocol/follower.py",
        ),
        tests=(
            *at(CORRESPONDENT, "test_older_or_contradicting_change_is_stale"),
            *at("unit/test_simulation.py", "test_move_through_a_bad_network"),
            *at(
                UNPROVEN,
                "test_sockets_move_between_the_announced_addresses_only",
                "test_no_socket_moves_that_was_not_asked_about_before",
                "test_only_what_was_asked_about_is_brought_to_its_end",
                "test_a_reply_about_sockets_counts_for_the_sequence_that_asked",
            ),
        ),
        mutations=(
            Mutation(
                "old-sequence-is-new",
                "a change with an old sequence is carried out",
                (
                    Edit(
                        "protocol.correspondent:Correspondent._limits",
                        "if message.sequence <= self.last_sequence and not repeated:",
                        "if False:",
                    ),
                ),
                at(CORRESPONDENT, "test_older_or_contradicting_change_is_stale"),
            ),
            Mutation(
                "overtaken-request-moves-sockets",
                "sockets are moved for a request that belongs to an earlier change",
                (
                    Edit(
                        "protocol.transfers:Transfers.requested",
                        "if not (known or (answerable and newest)):",
                        "if not (known or answerable):",
                    ),
                ),
                at(UNPROVEN, "test_sockets_move_between_the_announced_addresses_only"),
            ),
            Mutation(
                "any-transfer-is-known",
                "what goes on with a transfer need not be what was asked about",
                (
                    Edit(
                        "protocol.follower:Follower.knows",
                        "message.transfer == self._transfer and agreed == self._agreed",
                        "True",
                    ),
                ),
                at(UNPROVEN, "test_only_what_was_asked_about_is_brought_to_its_end"),
            ),
            Mutation(
                "late-reply-moves-sockets",
                "the answer to a request of another change counts for the present one",
                (
                    Edit(
                        "protocol.leader:Leader.replied",
                        "(message.sequence, message.stage) != (self._asked, WAITING[self._phase])",
                        "message.stage is not WAITING[self._phase]",
                    ),
                ),
                at(UNPROVEN, "test_a_reply_about_sockets_counts_for_the_sequence_that_asked"),
            ),
            Mutation(
                "sockets-move-without-preparation",
                "a transfer may begin with its second step",
                (
                    Edit(
                        "protocol.follower:Follower.requested",
                        "if message.stage is not TransferStage.PREPARE:",
                        "if False:",
                    ),
                ),
                at(UNPROVEN, "test_no_socket_moves_that_was_not_asked_about_before"),
            ),
        ),
    ),
    Requirement(
        number=10,
        title="sequences outlive restarts",
        text="Neither a restart of the controller nor of the host makes an old sequence acceptable or ours begin anew.",
        sources="RFC 6275 §15.3; RFC 6311",
        where=("daemon/journal.py", "protocol/correspondent.py", "protocol/announcer.py", "daemon/controller.py"),
        tests=(
            *at(CORRESPONDENT, "test_restart_does_not_open_the_door_to_old_messages", "test_restart_during_the_proof"),
            *at(MOBILE, "test_restart_before_the_acknowledgment_announces_again"),
            *at(JOURNAL, "test_after_a_reboot_only_the_sequences_are_left"),
            *at(
                CONTROLLER,
                "test_the_journal_is_written_before_the_kernel_is_changed",
                "test_peers_that_are_not_configured_any_more_keep_their_sequences",
            ),
            *at("scenarios/test_restart.py", "test_controllers_take_over_what_connections_need"),
        ),
        mutations=(
            Mutation(
                "restart-forgets-the-peers-sequence",
                "the highest accepted sequence is not taken over",
                (
                    Edit(
                        "protocol.correspondent:Correspondent.restore",
                        "self.last_sequence = snapshot.last_sequence",
                        "self.last_sequence = 0",
                    ),
                ),
                at(CORRESPONDENT, "test_restart_does_not_open_the_door_to_old_messages"),
            ),
            Mutation(
                "restart-forgets-our-sequence",
                "our own sequence starts anew",
                (
                    Edit(
                        "protocol.announcer:Announcer.restore",
                        "self.sequence = snapshot.sequence",
                        "self.sequence = 0",
                    ),
                ),
                at(MOBILE, "test_restart_before_the_acknowledgment_announces_again"),
            ),
            Mutation(
                "reboot-forgets-sequences",
                "after a reboot the journal counts for nothing",
                (
                    Edit(
                        "daemon.journal:Journal.load",
                        "identity: _sequences_only(peer)",
                        "identity: _sequences_only(peer | {'sequence': 0, 'last_sequence': 0})",
                    ),
                ),
                at(JOURNAL, "test_after_a_reboot_only_the_sequences_are_left"),
            ),
            Mutation(
                "kernel-before-journal",
                "the kernel is changed before the journal is written",
                (
                    Edit(
                        "daemon.controller:Controller._apply_all",
                        "        self._write_journal()\n",
                        "",
                    ),
                ),
                at(CONTROLLER, "test_the_journal_is_written_before_the_kernel_is_changed"),
            ),
        ),
    ),
    Requirement(
        number=11,
        title="independence of the wall clock",
        text="Setting the clock by years ends or prolongs nothing.",
        sources="RFC 4225 §3.1.3",
        where=("daemon/controller.py", "daemon/addresses.py"),
        tests=(
            *at(CONTROLLER, "test_setting_the_clock_changes_no_deadline"),
            *at(
                "kernel/test_xfrm_locks_clock.py",
                "test_a_clock_set_forward_ends_no_lock_that_is_older_than_a_second",
                "test_a_clock_set_forward_in_the_first_second_ends_a_lock_with_it",
                "test_a_clock_set_back_leaves_a_lock_until_it_is_removed",
            ),
            *at("scenarios/test_hard_conditions.py", "test_the_clock_jumps_ten_years_during_moves"),
        ),
        mutations=(
            Mutation(
                "deadlines-by-the-wall-clock",
                "the machines are told the time of day",
                (
                    Edit(
                        "daemon.controller:Controller._process",
                        "actions = peer.feed(event, loop.time())",
                        "actions = peer.feed(event, __import__('time').time())",
                    ),
                ),
                at(CONTROLLER, "test_setting_the_clock_changes_no_deadline"),
            ),
        ),
        state=State.PARTLY,
        remark="The kernel itself counts the age of locks by the wall clock: set forward in the first second of a "
        "lock, it ends it; set back, the lock stays until it is removed (kernel/xfrm/locks.py).",
    ),
)
