"""No list is forgotten."""

from tests.mutants.mutant import HERE


def test_each_list_has_its_tests() -> None:
    lists = {path.stem for path in HERE.glob("*.toml")}
    assert lists
    assert lists == {path.stem.removeprefix("test_") for path in HERE.glob("test_*.py")} - {"lists"}
