"""Logs: one JSON object per line when standard error is no terminal, else a line that people read.

Every record has ``time level event node``, and ``code`` where something was refused. Asyncio's own complaints come the
same way, so that nothing is ever printed beside the log.
"""

import logging
import sys
from collections.abc import Callable
from typing import Any

import structlog

LEVELS = ("debug", "info", "warning", "error")


def start(node: str, level: str = "info", *, terminal: bool | None = None,
          also: Callable[[str], None] | None = None) -> None:
    """Send everything to standard error from now on. *node* stands in every record. *also*: is given each as JSON."""
    shown = sys.stderr.isatty() if terminal is None else terminal
    # plain tracebacks: the pretty ones print local variables, and a secret may be one
    render: list[Any] = [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)] if shown \
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", key="time"),
        _named(node),
        *([_copied(also)] if also is not None else []),
    ]
    structlog.configure(
        processors=[*shared, *render],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr), cache_logger_on_first_use=False)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *render], foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)


def _copied(also: Callable[[str], None]) -> Any:
    whole = structlog.processors.JSONRenderer()

    def copy(logger: Any, name: str, record: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in record.items() if not key.startswith("_")}
        also(str(whole(logger, name, structlog.processors.format_exc_info(logger, name, kept))))
        return record
    return copy


def _named(node: str) -> Any:
    def add(_: Any, __: str, record: dict[str, Any]) -> dict[str, Any]:
        record.setdefault("node", node)
        return record
    return add
