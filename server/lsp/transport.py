"""pygls, for transport only: messages in and out; the documents are ours.

pygls ends lines where Python does, at form feeds and U+2028 too, which no editor does.
"""

from __future__ import annotations

from collections.abc import Generator
from importlib.metadata import version
from typing import Any, get_args

from lsprotocol import types
from lsprotocol.converters import get_converter
from pygls.lsp.server import LanguageServer
from pygls.protocol import LanguageServerProtocol, lsp_method

from server.sessions.text import Encoding

DEFAULT: Encoding = "utf-16"

Handing = Generator[Any, Any, None]


class Transport(LanguageServerProtocol):
    """Hands the documents' messages on, and tells what a column counts."""

    @lsp_method(types.INITIALIZE)
    def lsp_initialize(
        self, params: types.InitializeParams
    ) -> Generator[Any, Any, types.InitializeResult]:
        """Answer with the capabilities."""
        result: types.InitializeResult = yield from super().lsp_initialize(params)
        result.capabilities.position_encoding = agreed(params.capabilities)
        return result

    @lsp_method(types.TEXT_DOCUMENT_DID_OPEN)
    def lsp_text_document__did_open(self, params: types.DidOpenTextDocumentParams) -> Handing:
        """Hand on."""
        yield self.fm.features[types.TEXT_DOCUMENT_DID_OPEN], (params,), None

    @lsp_method(types.TEXT_DOCUMENT_DID_CHANGE)
    def lsp_text_document__did_change(self, params: types.DidChangeTextDocumentParams) -> Handing:
        """Hand on."""
        yield self.fm.features[types.TEXT_DOCUMENT_DID_CHANGE], (params,), None

    @lsp_method(types.TEXT_DOCUMENT_DID_CLOSE)
    def lsp_text_document__did_close(self, params: types.DidCloseTextDocumentParams) -> Handing:
        """Hand on."""
        yield self.fm.features[types.TEXT_DOCUMENT_DID_CLOSE], (params,), None


class Server(LanguageServer):
    """A language server whose own faults go to the log, never before the user's eyes."""

    def __init__(self) -> None:
        super().__init__(
            "evenhand",
            version("evenhand"),
            protocol_cls=Transport,
            converter_factory=get_converter,
        )

    def report_server_error(self, error: Exception, source: object) -> None:
        """Log what went wrong."""
        self.log(types.MessageType.Error, f"{type(error).__name__}: {error}")

    def log(self, kind: types.MessageType, sentence: str) -> None:
        """Send one sentence to the editor's log."""
        self.window_log_message(types.LogMessageParams(kind, f"evenhand: {sentence}"))


def agreed(capabilities: types.ClientCapabilities) -> Encoding:
    """Return what a column counts: bytes or characters if the client offers it, else UTF-16."""
    general = capabilities.general
    offers = (general and general.position_encodings) or ()
    known = {kind: kind for kind in get_args(Encoding)}
    return next((known[each] for each in offers if each in known and each != DEFAULT), DEFAULT)
