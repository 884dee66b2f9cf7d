"""Answers are counted by door and class of status, whatever was asked for."""

from typing import Any

import pytest

from fairlead.api.counting import Answered


@pytest.mark.parametrize(("status", "counted"), [(200, "2xx"), (204, "2xx"), (401, "4xx"), (503, "5xx")])
async def test_each_answer_counts_once_and_passes(status: int, counted: str) -> None:
    answered, sent = Answered(), list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"x"})

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {}

    for _ in range(2):
        await answered.at("api", app)({"type": "http", "path": "/attack"}, receive, send)
    assert answered.counts == {("api", counted): 2}
    assert sent == ["http.response.start", "http.response.body"] * 2
