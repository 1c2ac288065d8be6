"""An editor that talks to `evenhand lsp` over pipes, as real ones do, in one process with it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Queue
from typing import IO, Any

from live import eventually

from server.lsp.options import Options
from server.lsp.server import create_server

URI = "file:///work/a.py"
INLINE: dict[str, Any] = {"textDocument": {"inlineCompletion": {}}}
SECONDS = 20.0


class Editor:
    """Sends and reads JSON-RPC; `settings` is what it answers when it is asked for them.

    logs  sentences that the server logged, with their kind: 1 error, 2 warning, 3 info
    """

    def __init__(self, reading: IO[bytes], writing: IO[bytes]) -> None:
        self.logs: list[tuple[int, str]] = []
        self.settings: dict[str, Any] = {}
        self.pulled = 0
        self._reading, self._writing = reading, writing
        self._replies: dict[int, Queue[dict[str, Any]]] = {}
        self._sending = threading.Lock()
        self._next = 0
        self._version = 1
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def initialize(
        self, capabilities: dict[str, Any] | None = None, options: object = None
    ) -> dict[str, Any]:
        """Return the capabilities of the server."""
        params = {
            "processId": None,
            "rootUri": None,
            "capabilities": INLINE if capabilities is None else capabilities,
            "initializationOptions": options,
        }
        found: dict[str, Any] = self.request("initialize", params)["capabilities"]
        self.notify("initialized", {})
        return found

    def open(self, text: str, uri: str = URI) -> None:
        document = {"uri": uri, "languageId": "python", "version": 1, "text": text}
        self.notify("textDocument/didOpen", {"textDocument": document})

    def change(self, *changes: dict[str, Any], uri: str = URI) -> None:
        self._version += 1
        document = {"uri": uri, "version": self._version}
        params = {"textDocument": document, "contentChanges": changes}
        self.notify("textDocument/didChange", params)

    def type(self, line: int, character: int, text: str) -> None:
        """Insert text at a place."""
        place = {"line": line, "character": character}
        self.change({"range": {"start": place, "end": place}, "text": text})

    def close(self, uri: str = URI) -> None:
        self.notify("textDocument/didClose", {"textDocument": {"uri": uri}})

    def inline(self, line: int, character: int, **context: Any) -> list[dict[str, Any]]:
        """Return the offers at a place."""
        reply = self.answer(self.ask_inline(line, character, **context))
        items: list[dict[str, Any]] = reply["result"]["items"]
        return items

    def ask_inline(self, line: int, character: int, **context: Any) -> int:
        """Return the id of the request for offers at a place."""
        params = {
            "textDocument": {"uri": URI},
            "position": {"line": line, "character": character},
            "context": {"triggerKind": 2, **context},
        }
        return self.send("textDocument/inlineCompletion", params)

    def request(self, method: str, params: object = None) -> dict[str, Any]:
        found: dict[str, Any] = self.answer(self.send(method, params))["result"]
        return found

    def send(self, method: str, params: object) -> int:
        """Send a request; return its id."""
        self._next += 1
        self._replies[self._next] = Queue()
        self._write({"id": self._next, "method": method, "params": params})
        return self._next

    def answer(self, request: int) -> dict[str, Any]:
        """Wait for the reply to a request."""
        return self._replies[request].get(timeout=SECONDS)

    def cancel(self, request: int) -> None:
        self.notify("$/cancelRequest", {"id": request})

    def notify(self, method: str, params: object) -> None:
        self._write({"method": method, "params": params})

    def leave(self) -> None:
        """End as LSP says: shutdown, exit."""
        self.request("shutdown")
        self.notify("exit", None)
        self._thread.join(SECONDS)
        self._writing.close()
        self._reading.close()

    def _write(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        with self._sending:
            self._writing.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
            self._writing.flush()

    def _listen(self) -> None:
        length = 0
        while line := self._reading.readline():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
            elif not line.strip():
                self._take(json.loads(self._reading.read(length)))

    def _take(self, message: dict[str, Any]) -> None:
        method = message.get("method")
        if method == "window/logMessage":
            self.logs.append((message["params"]["type"], message["params"]["message"]))
        elif method == "workspace/configuration":
            self._write({"id": message["id"], "result": [self.settings]})
            self.pulled += 1  # what is sent from now on comes after the settings
        elif method is None:
            self._replies[message["id"]].put(message)


@contextmanager
def editing(url: str, **options: Any) -> Iterator[Editor]:
    """Yield an editor with a language server of its own that asks the server at an address."""
    to_server, from_editor = os.pipe()
    to_editor, from_server = os.pipe()
    server = create_server(Options(url=url, **options))
    stdin, stdout = os.fdopen(to_server, "rb"), os.fdopen(from_server, "wb")
    thread = threading.Thread(target=server.start_io, args=(stdin, stdout))
    thread.start()
    editor = Editor(os.fdopen(to_editor, "rb"), os.fdopen(from_editor, "wb"))
    try:
        yield editor
    finally:
        editor.leave()
        thread.join(SECONDS)
        stdin.close()
        assert not thread.is_alive()


def logged(editor: Editor, part: str) -> None:
    """Wait until the server has logged something."""
    eventually(lambda: any(part in sentence for _, sentence in editor.logs))
