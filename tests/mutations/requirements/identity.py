"""Who may move what, to where."""

from mutations.patches import Edit
from mutations.registry import Mutation, Requirement, at

AUTHORISATION = "unit/test_authorisation.py"
CORRESPONDENT = "unit/test_correspondent.py"

REQUIREMENTS = (
    Requirement(
        number=1,
        title="address binding",
        text="A change of X to Y is taken only from the identity that has X by an SA or by its last binding.",
        sources="RFC 4555 §5.2; RFC 6275 §15.1, §15.3",
        where=("protocol/authorisation.py",),
        tests=(
            *at(AUTHORISATION, "test_nobody_takes_the_connections_of_an_address_that_is_not_his"),
            *at(CORRESPONDENT, "test_refusal_changes_nothing_but_tells_why"),
        ),
        mutations=(
            Mutation(
                "foreign-address-is-owned",
                "an address that the sender does not have is taken for his",
                (Edit("protocol.authorisation:authorise", "if address not in owned:", "if False:"),),
                at(AUTHORISATION, "test_nobody_takes_the_connections_of_an_address_that_is_not_his"),
            ),
        ),
    ),
    Requirement(
        number=2,
        title="authorisation of the new address",
        text="The new address is in `allow`, one that hosts elsewhere reach, not ours, not another peer's.",
        sources="RFC 4555 §3.5, §4.1.1; RFC 6890",
        where=("protocol/authorisation.py",),
        tests=at(AUTHORISATION, "test_addresses_that_reach_nobody_are_refused"),
        mutations=(
            Mutation(
                "any-address-is-usable",
                "loopback, multicast, link-local and reserved addresses are accepted",
                (Edit("protocol.authorisation:unusable", "in kinds if holds", "in ()"),),
                at(AUTHORISATION, "test_addresses_that_reach_nobody_are_refused"),
            ),
        ),
    ),
)
