"""What a peer, or anybody, can make this host do by sending a lot."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, at

CORRESPONDENT = "unit/test_correspondent.py"
MESSAGES = "unit/test_messages.py"
MALFORMED = "test_malformed_datagrams_are_named_and_dropped"
CHANNEL = "unit/test_control_channel.py"
RECEPTION = "unit/test_reception.py"
CONTROLLER = "unit/test_controller.py"
FLOODED = "test_of_a_flood_a_bounded_number_waits_and_the_rest_is_dropped_before_it_is_read"
HANDFUL = "test_a_flood_of_changes_gives_a_handful_of_lines_with_the_number_left_out"
HOSTILE_FLOOD = "test_a_flood_of_one_peer_does_not_keep_another_from_moving_nor_fill_the_log"

REQUIREMENTS = (
    Requirement(
        number=26,
        title="flood of valid changes",
        text="An identity changes its addresses three times a second in the long run, names eight old ones at most, "
        "and has programs stopped for a tenth of the time.",
        sources="RFC 6275 §12; RFC 8046 §6.2.2",
        where=("protocol/correspondent.py", "protocol/allowance.py", "protocol/codec.py"),
        tests=(
            *at(
                CORRESPONDENT,
                "test_flood_of_changes_is_limited_without_touching_the_binding",
                "test_refused_changes_are_limited_too",
            ),
            *at(
                "unit/test_allowance.py",
                "test_what_is_used_up_comes_back_by_its_share",
                "test_a_peer_that_never_leaves_off_has_its_share_and_no_more",
            ),
            *at(MESSAGES, MALFORMED),
            *at("scenarios/test_hostile_peer.py", HOSTILE_FLOOD),
        ),
        mutations=(
            Mutation(
                "no-rate-limit",
                "every new sequence is looked at",
                (Edit("protocol.correspondent:Correspondent._limits", "if not self._bucket.take(now):", "if False:"),),
                at(CORRESPONDENT, "test_flood_of_changes_is_limited_without_touching_the_binding"),
            ),
            Mutation(
                "programs-are-stopped-without-limit",
                "how long programs were stopped for a peer is not counted",
                (Edit("protocol.allowance:Allowance.is_used_up", "return self._left <= 0", "return False"),),
                at("unit/test_allowance.py", "test_a_peer_that_never_leaves_off_has_its_share_and_no_more"),
            ),
            Mutation(
                "any-number-of-old-addresses",
                "a change may name as many old addresses as fit in",
                (Edit("protocol.codec:_Fields.addresses", "if len(values) > MAX_DEPRECATED:", "if False:"),),
                at(MESSAGES, MALFORMED),
            ),
        ),
    ),
    Requirement(
        number=27,
        title="flood of invalid messages",
        text="What is no message costs a look and a counter. Of one peer 200 datagrams a second are read and 64 "
        "messages wait, those that change nothing cost the others nothing, and the log gets a handful of lines.",
        sources="RFC 6275 §15.4.5",
        where=(
            "daemon/control_channel.py",
            "daemon/reception.py",
            "daemon/controller.py",
            "daemon/reports.py",
            "daemon/throttle.py",
            "protocol/codec.py",
        ),
        tests=(
            *at(
                CHANNEL,
                "test_a_flood_does_not_keep_the_loop_from_other_work",
                "test_what_is_no_message_is_counted_by_its_reason",
                "test_a_hundred_thousand_bad_datagrams_are_one_line_in_the_log",
                "test_after_a_line_about_drops_the_next_waits_its_time",
            ),
            *at(
                RECEPTION,
                FLOODED,
                "test_another_peer_waits_for_a_bounded_number_of_a_floods_messages",
                "test_a_sender_that_nobody_names_makes_charon_be_read_only_now_and_then",
            ),
            *at(CONTROLLER, "test_a_message_that_changes_nothing_costs_nothing_of_the_other_peers", HANDFUL),
            *at("scenarios/test_hostile_peer.py", HOSTILE_FLOOD),
        ),
        mutations=(
            Mutation(
                "flood-keeps-the-loop",
                "the control channel is read until it is empty",
                (Edit("daemon.control_channel:ControlChannel._readable", "in range(64):", "in iter(int, 1):"),),
                at(CHANNEL, "test_a_flood_does_not_keep_the_loop_from_other_work"),
            ),
            Mutation(
                "every-datagram-is-read",
                "of one peer any number of datagrams is read",
                (Edit("daemon.reception:Reception.admit", 'if self._buckets[sender].take(now) else "too_many"', ""),),
                at(RECEPTION, FLOODED),
            ),
            Mutation(
                "any-number-waits",
                "any number of messages of one peer waits",
                (Edit("daemon.controller:Controller.receive", "if peer.pending >= MAX_PENDING:", "if False:"),),
                at(
                    RECEPTION,
                    FLOODED,
                    "test_another_peer_waits_for_a_bounded_number_of_a_floods_messages",
                ),
            ),
            Mutation(
                "every-message-is-for-all-peers",
                "all peers are looked through for each message, whether it has changed anything or not",
                (
                    Edit(
                        "daemon.controller:Controller._stirred",
                        "return pending or not isinstance(event, MessageReceived) or peer.standing != before",
                        "return True",
                    ),
                ),
                at(CONTROLLER, "test_a_message_that_changes_nothing_costs_nothing_of_the_other_peers"),
            ),
            Mutation(
                "a-line-for-each-message",
                "what a peer can cause at will is logged each time",
                (Edit("daemon.reports:Reports.take", "if report.fact in _AT_WILL:", "if False:"),),
                at(CONTROLLER, HANDFUL),
            ),
            Mutation(
                "a-line-for-each-drop",
                "every datagram that is dropped is logged",
                (
                    Edit(
                        "daemon.control_channel:ControlChannel._drop",
                        "if self._telling is None:\n"
                        "            self._telling = asyncio.get_running_loop().call_later(TELL_FIRST, self._tell)",
                        "self._tell()",
                    ),
                ),
                at(CHANNEL, "test_after_a_line_about_drops_the_next_waits_its_time"),
            ),
            Mutation(
                "charon-is-read-for-each-stranger",
                "each datagram of an unproven sender has charon read",
                (Edit("daemon.reception:Reception.admit", "if self._looks.take(now):", "if True:"),),
                at(RECEPTION, "test_a_sender_that_nobody_names_makes_charon_be_read_only_now_and_then"),
            ),
        ),
    ),
)
