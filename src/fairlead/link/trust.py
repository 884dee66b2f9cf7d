"""How much of trust statements goes over the link. Pure."""

MOST_BYTES = 48 * 1024
"""Of one, as it is signed."""
MOST_CHAIN = 32
"""Statements that are followed at once; each but the last has changed the roots."""
