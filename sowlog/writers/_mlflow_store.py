"""The stores of MLflow: which of them answer, by one attempt, and the error of one that does not."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from sowlog.writers.protocol import StalledError

_DATABASES, _SERVERS = ("sqlite", "mysql", "postgresql", "mssql"), ("http://", "https://")
# Seconds for which a server may take to answer.
_TIMEOUT = 10
# The answers of a server, or of a proxy in front of it, after which MLflow's client would wait.
_RETRIED = (429, 502, 503, 504)
_PASSWORD = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]*@")


class MlflowStore:
    """A server, a database or a folder in which MLflow keeps runs.

    MLflow's client repeats a failed request to a server for four minutes, and the opening of a database for
    a hundred seconds, in which no other record and no close passes. So `check` makes one attempt first.

    Args:
        uri: its URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.is_database = uri.startswith(_DATABASES)
        self._is_server = uri.startswith(_SERVERS)

    def check(self, *, is_open: bool) -> None:
        """Raise unless the store answers one request.

        Args:
            is_open: whether the client has opened the store; a database is then not opened once more.

        Raises:
            Exception: The store does not answer, as an exception of MLflow, SQLAlchemy or requests.
        """
        if self._is_server:
            self._ask_server()
        elif self.is_database and not is_open:
            self._open_database()

    def _ask_server(self) -> None:
        creds = module("utils.credentials").get_default_host_creds(self.uri)
        request = module("utils.rest_utils").http_request
        options = {"max_retries": 0, "timeout": _TIMEOUT, "raise_on_status": False, "stream": True}
        with request(creds, "/health", "GET", **options) as answer:
            # A server without that page answers as well.
            if answer.status_code in _RETRIED:
                answer.raise_for_status()

    def _open_database(self) -> None:
        engine = module("store.db.utils").create_sqlalchemy_engine(self.uri)
        try:
            file = engine.url.database or ""
            if self.uri.startswith("sqlite") and not file.startswith("file:"):
                # MLflow creates that folder, and SQLite does not.
                Path(file).parent.mkdir(parents=True, exist_ok=True)
            engine.connect().close()
        finally:
            engine.dispose()

    def explain(self, error: Exception) -> StalledError | None:
        """Return the error of a stall, or None if another attempt would fail as well."""
        if not self._may_pass(error):
            return None
        cause = str(getattr(error, "orig", None) or error).rstrip(".")
        is_remote = "://" in self.uri and not self.uri.startswith(("sqlite", "file"))
        move = "start the server" if is_remote else "make its folder writable"
        text = (
            f"MLflow at {self.uri} does not answer: {cause}. If that persists, {move}, or mend tracking_uri."
        )
        # No message has a password.
        return StalledError(_PASSWORD.sub("***@", text))

    def _may_pass(self, error: Any) -> bool:
        if isinstance(error, module("exceptions").MlflowException):
            status = error.get_http_status_code()
        elif isinstance(error, OSError):
            # Of an upload: an HTTP error has the answer of the server.
            status = getattr(getattr(error, "response", None), "status_code", 500)
        else:
            # MLflow passes on an error of SQLAlchemy as it opens a database.
            return self.is_database and isinstance(error, _database_error())
        return status >= 500 or status == 429


def _database_error() -> type[Exception]:
    return importlib.import_module("sqlalchemy.exc").DBAPIError


def module(name: str) -> Any:
    """Import a module of MLflow where it is first used, which takes seconds."""
    return importlib.import_module(f"mlflow.{name}")
