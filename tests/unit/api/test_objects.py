"""The routes of objects, over objects that are really kept."""

from pathlib import Path
from urllib.parse import quote

from fairlead.api import objects
from fairlead.api.application import build
from tests.unit.api.test_application import door
from tests.unit.objects.test_shelf import opened


async def test_a_name_in_any_letters_makes_an_object_and_no_header(tmp_path: Path) -> None:
    async with opened(tmp_path / "store") as room:
        app = build([objects.routes(room.things, room.catalogue)], version="1", public=frozenset())
        async with door(app, 0) as client:
            for name in ("Grün", "名", "#?/% a"):
                made = await client.post("/api/thing", json={"name": name})
                assert made.status_code == 201
                assert made.json()["name"] == name
                place = f"http://node/api/thing/{made.json()['uuid']}#{quote(name, safe='#?/')}"
                assert made.headers["location"] == place
                assert "set-cookie" not in made.headers
                assert (await client.get(made.headers["location"])).status_code == 200
            for name in ("a\r\nset-cookie: sessionid=x", "\U000e7711", "a\x00"):
                refused = await client.post("/api/thing", json={"name": name})
                assert (refused.status_code, refused.json()["code"]) == (400, "FL-OBJECT-FIELD")
