"""All kinds of objects together: who has them, what they are called, and who names whom."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from fairlead.base.errors import Refused, printable
from fairlead.objects import reference
from fairlead.objects.model import Facts, Item, Kind, Model, facts, refs


class Source(Protocol):
    """Who has the objects of one kind."""

    @property
    def kind(self) -> Kind:
        """Which."""
        ...

    async def items(self) -> Sequence[Item]:
        """All of them, in a stable order."""
        ...

    async def item(self, uuid: str) -> Item | None:
        """The one with that uuid; None: there is none."""
        ...


class Changeable(Source, Protocol):
    """The same for objects that may be changed, with those of these that the methods of its kind ask for.

    Each change names who asked, and raises Refused, OperatorError.
    """

    async def make(self, value: Model, by: str, *, tenant: str, uuid: str | None) -> Item:
        """A new one; *uuid*: the one that the caller wants it to have."""
        ...

    async def change(self, old: Item, value: Model, by: str) -> Item:
        """Another value for *old*, if nobody has changed it meanwhile: else Refused FL-OBJECT-STALE."""
        ...

    async def remove(self, old: Item, by: str) -> None:
        """It is no more."""
        ...


def stale(kind: Kind, uuid: str) -> Refused:
    """Somebody else has changed an object."""
    return Refused("FL-OBJECT-STALE", f"{kind.title} {printable(uuid, 80)} was changed since it was read",
                   "read it again, and repeat the change")


class Catalogue:
    """The sources, by the path of their kind."""

    def __init__(self, sources: Iterable[Source] = ()) -> None:
        self._sources: dict[str, Source] = {}
        for source in sources:
            self.add(source)

    def add(self, source: Source) -> None:
        """One kind more."""
        for path in (source.kind.path, *source.kind.also):
            self._sources[path] = source

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """By path."""
        return {path: source.kind for path, source in self._sources.items()}

    def source(self, path: str) -> Source | None:
        """Who has the objects of the kind with that path."""
        return self._sources.get(path)

    async def find(self, kind: str, uuid: str) -> Item | None:
        """The object, if there is such a kind and such an object."""
        source = self._sources.get(kind)
        return await source.item(uuid) if source is not None else None

    async def names(self, values: Iterable[Model]) -> "Names":
        """What everything that *values* name is called."""
        kinds = {kind for value in values for kind, _ in refs(value)} | {"tenant"}
        found: dict[tuple[str, str], str] = {}
        for kind in kinds:
            if (source := self._sources.get(kind)) is not None:
                found |= {(kind, item.uuid): item.name for item in await source.items()}
        return Names(found)

    async def resolve(self, model: type[Model], fields: Mapping[str, Any]) -> dict[str, Any]:
        """A client's *fields* for *model*, with every reference as the store keeps it.

        Raises Refused FL-OBJECT-REF for one that names nothing, or something of another kind.
        """
        known = {one.name: one for one in facts(model)}
        made: dict[str, Any] = {}
        for name, said in fields.items():
            one = known.get(name)
            made[name] = await self._resolved(one, said) if one is not None and not one.computed else said
        return made

    async def _resolved(self, one: Facts, said: Any) -> Any:
        if one.ref is None and one.inner is None:
            return said
        if isinstance(said, list):
            found = [await self._resolved(one, each) for each in said]
            return found if one.ref is None else list(dict.fromkeys(found))
        if one.ref is not None:
            return await self.kept(one.ref, said) if said is not None else None
        return await self.resolve(one.inner, said) if one.inner is not None and isinstance(said, dict) else said

    async def referrers(self, kind: str, uuid: str) -> Sequence[str]:
        """Who names this object: ``Type name``, each once."""
        found = []
        for source in {id(source): source for source in self._sources.values()}.values():
            found += [f"{source.kind.title} {item.name or item.uuid}" for item in await source.items()
                      if (kind, uuid) in set(refs(item.value))]
        return found

    async def kept(self, kind: str, said: Any) -> str:
        """What a client's reference to an object of *kind* names, as the store keeps it. Raises FL-OBJECT-REF."""
        if not isinstance(said, str):
            raise Refused("FL-OBJECT-REF", "a reference is a text", f"use /api/{kind}/UUID")
        meant = reference.parse(said, kind)
        source = self._sources.get(kind)
        items = await source.items() if source is not None else ()
        found = [item for item in items if item.uuid == meant.uuid or (meant.name and item.name == meant.name)]
        if len(found) == 1:
            return reference.kept(kind, found[0].uuid)
        if found:
            raise Refused("FL-OBJECT-REF", f"{len(found)} objects of several tenants are called "
                          f"{printable(meant.name, 80)!r}", f"name one by its uuid: /api/{kind}/UUID")
        raise Refused("FL-OBJECT-REF", f"there is no {kind} {printable(meant.uuid or meant.name, 80)!r}",
                      f"see GET /api/{kind}")


class Names:
    """What objects are called."""

    def __init__(self, found: Mapping[tuple[str, str], str]) -> None:
        self._found = found

    def __call__(self, kind: str, uuid: str) -> str:
        """The name of one; empty when nobody is called so."""
        return self._found.get((kind, uuid), "")
