"""Where a served gateway's log lines go, and what they look like."""

from __future__ import annotations

import logging
import sys
from datetime import datetime
from logging.handlers import RotatingFileHandler, WatchedFileHandler
from pathlib import Path
from typing import Final

from ..errors import ConfigurationError
from ..settings import ServerSettings

FILE: Final = "gateway.log"
_MAX_BYTES: Final = 10 * 1024 * 1024
_KEPT: Final = 5


class LineFormatter(logging.Formatter):
    """ISO 8601 times with their zone; a message is one line, whatever a stranger put into it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002
        """The moment of the record in local time."""
        return (
            datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        )

    def formatMessage(self, record: logging.LogRecord) -> str:
        """Control characters, which could forge a line or steer a terminal, are escaped."""
        record.message = "".join(
            char if char.isprintable() else char.encode("unicode_escape").decode()
            for char in record.message
        )
        return super().formatMessage(record)


def configure(server: ServerSettings) -> None:
    """Send our log and the server's to stderr and, with a log_dir, to its gateway.log.

    One process rotates the file by itself (10 MB, 5 old ones kept); several share it and leave
    that to logrotate. Raises ConfigurationError for a directory that cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if server.log_dir:
        handlers.append(_file_handler(Path(server.log_dir).expanduser(), server.workers))
    for handler in handlers:
        handler.setFormatter(LineFormatter())
    level: int = getattr(logging, server.log_level.upper())
    # uvicorn's lines about starting and stopping are for debugging; its warnings are not.
    uvicorns = level if level == logging.DEBUG else max(level, logging.WARNING)
    for name, at in (("asgi_llm_gateway", level), ("uvicorn", uvicorns)):
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()
        for handler in handlers:
            logger.addHandler(handler)
        logger.setLevel(at)
        logger.propagate = False


def _file_handler(folder: Path, workers: int) -> logging.Handler:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if workers > 1:
            return WatchedFileHandler(folder / FILE, encoding="utf-8")
        return RotatingFileHandler(
            folder / FILE, maxBytes=_MAX_BYTES, backupCount=_KEPT, encoding="utf-8"
        )
    except OSError as exc:
        raise ConfigurationError(f"log_dir: cannot write {folder / FILE}: {exc.strerror}") from exc
