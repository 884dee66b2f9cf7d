"""Which fairlead this is."""

from importlib.metadata import version

PRODUCT = "fairlead"
PUBLIC_MODEL = "30.2.1"
"""The release of the public object model that the API follows."""


def installed() -> str:
    """The version of the installed package."""
    return version(PRODUCT)
