"""Whom changes of the directory concern: who tells thousands what they should have tells only those, one by one."""

from collections.abc import Callable

from fairlead.nodes.directory import Directory


class Concerned:
    """Gathers them until they are taken. `note` is to be called while the directory tells of a change."""

    def __init__(self, directory: Directory, everybodys: Callable[[], int]) -> None:
        """*everybodys*: counts the changes that concern all."""
        self._directory = directory
        self._everybodys = everybodys
        self._counted = everybodys()
        self._nodes: set[str] | None = set()

    def note(self) -> None:
        """The directory has changed."""
        touched, counted = self._directory.touched, self._everybodys()
        if touched is None or counted != self._counted:
            self._nodes, self._counted = None, counted
        elif self._nodes is not None:
            self._nodes |= touched

    def all(self) -> None:
        """Everybody is concerned, of whatever else."""
        self._nodes = None

    def take(self) -> frozenset[str] | None:
        """The ids of the nodes that are concerned since this was last asked; None: all are."""
        nodes, self._nodes = self._nodes, set()
        return None if nodes is None else frozenset(nodes)
