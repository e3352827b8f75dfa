"""A server that keeps the steps of records, as a program to kill; it starts at once, as it imports no JAX."""

import contextlib
import socket
import socketserver
import subprocess
import sys
from pathlib import Path


class RecordServer:
    """A server in a process of its own, which ignores a step that it has."""

    def __init__(self, kept: Path):
        self._kept = kept
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @contextlib.contextmanager
    def running(self):
        """Run the server, and kill it."""
        command = [sys.executable, __file__, str(self.port), str(self._kept)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout.read(1) == b"."
            try:
                yield
            finally:
                process.kill()

    @property
    def steps(self):
        """The steps that the server has, in the order of arrival."""
        return [int(line) for line in self._kept.read_text().split()] if self._kept.exists() else []


def serve(port: int, kept: Path) -> None:
    """Append each new step to a file, then answer."""
    known = set(kept.read_text().split()) if kept.exists() else set()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            """Keep one step."""
            step = self.rfile.readline().decode().strip()
            if step not in known:
                with kept.open("a") as file:
                    file.write(f"{step}\n")
                known.add(step)
            self.wfile.write(b"ok")

    socketserver.TCPServer.allow_reuse_address = True
    with socketserver.TCPServer(("127.0.0.1", port), Handler) as server:
        print(".", end="", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
