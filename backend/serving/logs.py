"""The log of a process: plain lines for people at a terminal, JSON lines for everything else.

A JSON line has the id of the request it belongs to.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

_ACCEPTED_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_NOT_FOR_PEOPLE = frozenset({"store_opened"})
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class LogFormat(StrEnum):
    """How log lines look."""

    AUTO = "auto"
    TEXT = "text"
    JSON = "json"

    def is_text(self, stream: TextIO) -> bool:
        """Whether `stream` gets plain lines; `AUTO` gives them to terminals alone."""
        return self is LogFormat.TEXT or (self is LogFormat.AUTO and stream.isatty())


def new_request_id(offered: str | None) -> str:
    """Returns the id the caller offered when it is harmless, else a fresh one."""
    if offered is not None and _ACCEPTED_ID.fullmatch(offered):
        return offered
    return uuid.uuid4().hex


class JsonFormatter(logging.Formatter):
    """Writes ts, level, event, message, request_id, every `extra` field and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns one line of JSON."""
        line: dict[str, object] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "event": getattr(record, "event", record.name),
            "message": record.getMessage(),
        }
        if (current := request_id.get()) is not None:
            line["request_id"] = current
        line.update({k: v for k, v in vars(record).items() if k not in _STANDARD | {"event"}})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """Writes the time of day, the level if it is no INFO, the message and every `extra` field.

    The field `next_step` gets a line of its own.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the lines for one record, without a line end."""
        time_of_day = f"{datetime.fromtimestamp(record.created).astimezone():%H:%M:%S}"
        level = "" if record.levelno == logging.INFO else f"{record.levelname} "
        fields = {k: v for k, v in vars(record).items() if k not in _STANDARD | {"event"}}
        next_step = fields.pop("next_step", None)
        about = ", ".join(f"{name} {value}" for name, value in fields.items())
        text = f"{time_of_day}  {level}{record.getMessage()}{f' ({about})' if about else ''}"
        if next_step is not None:
            text += f"\n{' ' * (len(time_of_day) + 2)}Next: {next_step}"
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return text


def start_logging(
    level: str, log_format: LogFormat = LogFormat.AUTO, stream: TextIO | None = None
) -> None:
    """Sends every record of this process to a stream.

    Args:
        level: the lowest level that is sent.
        log_format: how the lines look.
        stream: where they go; None is stderr.
    """
    stream = stream or sys.stderr
    handler = logging.StreamHandler(stream)
    if log_format.is_text(stream):
        handler.setFormatter(TextFormatter())
        handler.addFilter(lambda record: getattr(record, "event", "") not in _NOT_FOR_PEOPLE)
    else:
        handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    # They log every outgoing request and migration step; ours say what matters.
    for chatty in ("httpx", "httpcore", "alembic", "urllib3", "matplotlib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
