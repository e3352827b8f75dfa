"""Requests by HTTP whose answers are bounded, in bytes and in time."""

from __future__ import annotations

import http.client
import io
import socket
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, cast

# The most of an answer that is read: a message of a line or a page.
MAX_ANSWER = 1 << 16


class BoundedHttp:
    """Sends requests by POST, each in a connection of its own.

    A redirect is an error, as urllib follows it by GET, without the body.

    Args:
        timeout: seconds for the connection, for the request, and for the whole answer.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._opener = urllib.request.build_opener(_NoRedirect, _Http, _Https)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> tuple[bytes, str]:
        """Return the first 64 KiB of the answer to a request, and the type of its content.

        Raises:
            urllib.error.HTTPError: The status of the answer is no success.
            http.client.HTTPException: The answer is cut, or is not one of HTTP.
            OSError: The server does not answer whole within the timeout.
        """
        request = urllib.request.Request(url, body, dict(headers))
        with self._opener.open(request, timeout=self._timeout) as answer:
            content = answer.read(MAX_ANSWER)
            # A read with a bound does not raise where the answer is cut.
            if answer.length and len(content) < MAX_ANSWER:
                raise http.client.IncompleteRead(content, answer.length)
            return content, answer.headers.get_content_type()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Return no request."""


class _TimedStream(io.RawIOBase):
    """The bytes that a socket receives until a deadline: its own timeout is that of each byte."""

    def __init__(self, stream: io.RawIOBase, sock: socket.socket) -> None:
        self._stream, self._sock = stream, sock
        self._timeout = cast(float, sock.gettimeout())
        self._deadline = time.monotonic() + self._timeout

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out.")
        self._sock.settimeout(left)
        try:
            return self._stream.readinto(buffer)
        finally:
            self._sock.settimeout(self._timeout)

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Response(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_TimedStream(self.fp.detach(), sock))


class _Connection(http.client.HTTPConnection):
    response_class = _Response


class _TlsConnection(_Connection, http.client.HTTPSConnection):
    """With the certificates that Python trusts by default."""


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_TlsConnection, req)
