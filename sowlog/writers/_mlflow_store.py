"""The stores of MLflow: which of them answer, by one attempt, and the error of one that does not."""

from __future__ import annotations

import importlib
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sowlog._printable import printable
from sowlog.writers._bounded_http import MAX_ANSWER
from sowlog.writers.protocol import StalledError

_DATABASES, _SERVERS = ("sqlite", "mysql", "postgresql", "mssql"), ("http://", "https://")
# Seconds for which a server may take to answer, and characters of its answer in a message.
_TIMEOUT, _TEXT = 10, 500
# The answers of a server, or of a proxy in front of it, after which MLflow's client would wait.
_RETRIED = (429, 502, 503, 504)
# The name and the password in a URI, of which either may be a secret, and a password in its query.
_SECRETS = (re.compile(r"(?<=://)[^/\s]*(?=@)"), re.compile(r"(?<=[?&]password=)[^&\s]+"))
# By MLflow's REST API: an endpoint, and the fields of its metrics, parameters and tags.
_LOG_BATCH, _FIELDS = "/api/2.0/mlflow/runs/log-batch", ("key", "value", "timestamp", "step")


class MlflowStore:
    """A server, a database or a folder in which MLflow keeps runs.

    MLflow's client repeats a failed request to a server for four minutes, and the opening of a database for
    a hundred seconds, in which no other record and no close passes. So `check` makes one attempt first, and
    `log_batch` makes one. The client's environment variables would bound its requests as well, but those of
    the user's own calls too.

    Args:
        uri: its URI.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.is_database = uri.startswith(_DATABASES)
        self.has_secrets = _without_secrets(uri) != uri
        # A scheme is of upper or lower case.
        self._is_server = uri.lower().startswith(_SERVERS)

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
        # A redirect is an answer, whose body would be read whole.
        options = {"timeout": _TIMEOUT, "stream": True, "allow_redirects": False}
        with self._request("/health", "GET", **options) as answer:
            # A server without that page answers as well.
            if answer.status_code in _RETRIED:
                answer.raise_for_status()

    def _request(self, endpoint: str, method: str, **options: Any) -> Any:
        """Return the answer of a server to one request, which is not repeated."""
        creds = module("utils.credentials").get_default_host_creds(self.uri)
        request = module("utils.rest_utils").http_request
        return request(creds, endpoint, method, max_retries=0, raise_on_status=False, **options)

    def log_batch(self, client: Any, run: str, **entities: Sequence[Any]) -> None:
        """Log metrics, parameters or tags of a run, as `client.log_batch` does, by one attempt at a server.

        Raises:
            Exception: They are not logged, as an exception of MLflow or SQLAlchemy.
        """
        if not self._is_server:
            client.log_batch(run, **entities)
            return
        fields = {name: list(map(_fields_of, each)) for name, each in entities.items()}
        with self._request(_LOG_BATCH, "POST", json={"run_id": run, **fields}, stream=True) as answer:
            content = _first_bytes(answer)
        # It would be read whole; a receipt of MLflow has two bytes.
        answer._content = content
        module("utils.rest_utils").verify_rest_response(answer, _LOG_BATCH)

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
        cause = printable(_without_secrets(getattr(error, "orig", None) or error).rstrip("."), most=_TEXT)
        is_remote = "://" in self.uri and not self.uri.startswith(("sqlite", "file"))
        move = "start the server" if is_remote else "make its folder writable"
        return StalledError(
            f"MLflow at {_without_secrets(self.uri)} does not answer: {cause}. If that persists, {move}, or "
            "mend tracking_uri."
        )

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


def _first_bytes(answer: Any) -> bytes:
    """Return the content of an answer, or the begin of a huge one."""
    content = b""
    for piece in answer.iter_content(MAX_ANSWER):
        content += piece
        if len(content) >= MAX_ANSWER:
            break
    return content


def _fields_of(entity: Any) -> dict[str, Any]:
    """Return an entity as the REST API takes it; by protobuf's JSON, NaN and infinities are texts."""
    fields = {name: getattr(entity, name) for name in _FIELDS if hasattr(entity, name)}
    value = fields["value"]
    if isinstance(value, float) and not math.isfinite(value):
        fields["value"] = "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    return fields


def _without_secrets(text: object) -> str:
    """Return a text, such as a URI, with its passwords hidden."""
    shown = str(text)
    for secret in _SECRETS:
        shown = secret.sub("***", shown)
    return shown


def _database_error() -> type[Exception]:
    return importlib.import_module("sqlalchemy.exc").DBAPIError


def module(name: str) -> Any:
    """Import a module of MLflow where it is first used, which takes seconds."""
    return importlib.import_module(f"mlflow.{name}")
