"""Old, doubled and overtaken messages; clocks."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement

CORRESPONDENT = "tests/unit/test_correspondent.py::"

REQUIREMENTS = (
    Requirement(
        number=7,
        title="replayed change",
        text="The same change once more, as the same ESP packet or newly encrypted, changes no state.",
        sources="RFC 6275 §15.4.4, RFC 7296 §2.23",
        where=("protocol/correspondent.py",),
        tests=(
            CORRESPONDENT + "test_repeated_change_is_answered_the_same_and_does_nothing",
            CORRESPONDENT + "test_older_or_contradicting_change_is_stale",
        ),
        mutations=(
            Mutation(
                "old-sequence-is-new",
                "a change with an old sequence is carried out",
                (
                    Edit(
                        "protocol.correspondent:Correspondent.changed",
                        "if message.sequence <= self.last_sequence:",
                        "if False:",
                    ),
                ),
                (CORRESPONDENT + "test_older_or_contradicting_change_is_stale",),
            ),
        ),
    ),
)
