"""Which fairlead this is."""

from importlib.metadata import version

PRODUCT = "fairlead"


def installed() -> str:
    """The version of the installed package."""
    return version(PRODUCT)
