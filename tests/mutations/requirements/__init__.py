"""The list: 34 requirements, as they were collected from the RFCs and from what was done to other protocols."""

from mutations.registry import Mutation, Requirement
from mutations.requirements import availability, floods, freshness, identity, keys, leaks, redirection

REQUIREMENTS: tuple[Requirement, ...] = (
    *identity.REQUIREMENTS,
    *freshness.REQUIREMENTS,
    *redirection.REQUIREMENTS,
    *keys.REQUIREMENTS,
    *leaks.REQUIREMENTS,
    *floods.REQUIREMENTS,
    *availability.REQUIREMENTS,
)

MUTATIONS: dict[str, Mutation] = {
    mutation.name: mutation for requirement in REQUIREMENTS for mutation in requirement.mutations
}
