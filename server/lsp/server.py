"""The language server: LSP's words for what the desk does."""

from __future__ import annotations

from typing import Any

from lsprotocol import types
from pygls.exceptions import JsonRpcException

from server.lsp.desk import Desk, Range
from server.lsp.options import SECTION, Options, changed
from server.lsp.transport import Server, agreed
from server.sessions.text import Position

KINDS = {"warning": types.MessageType.Warning, "info": types.MessageType.Info}
TRIGGERS = [*".([{=,: "]  # besides the letters of a word, at which editors ask by themselves
LABEL = 60  # characters


def create_server(options: Options) -> Server:
    """Return a language server that is ready to start."""
    server = Server()
    desk = Desk(options, lambda kind, sentence: server.log(KINDS[kind], sentence))
    _configuring(server, desk)
    _editing(server, desk)
    _offering(server, desk)
    return server


def _configuring(server: Server, desk: Desk) -> None:
    """Take what the editor chooses."""

    @server.feature(types.INITIALIZE)
    def initialize(params: types.InitializeParams) -> None:
        desk.encoding = agreed(params.capabilities)
        text_document = params.capabilities.text_document
        if text_document is None or text_document.inline_completion is None:
            _listing(server, desk)
        _take(server, desk, params.initialization_options)

    @server.feature(types.INITIALIZED)
    async def initialized(params: types.InitializedParams) -> None:
        await _pull(server, desk)

    @server.feature(types.WORKSPACE_DID_CHANGE_CONFIGURATION)
    async def configuration(params: types.DidChangeConfigurationParams) -> None:
        _take(server, desk, params.settings)
        await _pull(server, desk)

    @server.feature(types.SHUTDOWN)
    async def shutdown(params: Any) -> None:  # noqa: ANN401
        await desk.close()


def _take(server: Server, desk: Desk, given: object) -> None:
    """Take options as an editor sent them."""
    options, complaints = changed(desk.options, given)
    for sentence in complaints:
        server.log(types.MessageType.Warning, sentence)
    desk.configured(options)


async def _pull(server: Server, desk: Desk) -> None:
    """Ask an editor that keeps its settings for itself."""
    workspace = server.client_capabilities.workspace
    if workspace is None or not workspace.configuration:
        return
    wanted = types.ConfigurationParams([types.ConfigurationItem(section=SECTION)])
    try:
        for given in await server.workspace_configuration_async(wanted):
            _take(server, desk, given)
    except JsonRpcException as error:
        server.log(types.MessageType.Warning, f"editor gave no configuration: {error}")


def _editing(server: Server, desk: Desk) -> None:
    """Keep each document as the editor has it."""

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def opened(params: types.DidOpenTextDocumentParams) -> None:
        desk.opened(params.text_document.uri, params.text_document.text)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def edited(params: types.DidChangeTextDocumentParams) -> None:
        desk.edited(
            params.text_document.uri,
            (
                (_range(each.range), each.text)
                if isinstance(each, types.TextDocumentContentChangePartial)
                else (None, each.text)
                for each in params.content_changes
            ),
        )

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def closed(params: types.DidCloseTextDocumentParams) -> None:
        desk.closed(params.text_document.uri)


def _offering(server: Server, desk: Desk) -> None:
    """Offer text at the cursor."""

    @server.feature(types.TEXT_DOCUMENT_INLINE_COMPLETION, types.InlineCompletionOptions())
    async def inline(params: types.InlineCompletionParams) -> types.InlineCompletionList:
        context, replaced, chosen = params.context, _at(params.position), ""
        selected = context.selected_completion_info
        if selected is not None:
            replaced, chosen = selected.range, selected.text
        text = await desk.asked(
            params.text_document.uri,
            _range(replaced),
            chosen,
            invoked=context.trigger_kind == types.InlineCompletionTriggerKind.Invoked,
        )
        found = types.InlineCompletionItem(insert_text=text, range=replaced)
        return types.InlineCompletionList([found] if text else [])


def _listing(server: Server, desk: Desk) -> None:
    """Offer the text as an entry of the editor's list, where it knows nothing better."""

    @server.feature(
        types.TEXT_DOCUMENT_COMPLETION, types.CompletionOptions(trigger_characters=TRIGGERS)
    )
    async def listed(params: types.CompletionParams) -> types.CompletionList:
        uri, cursor = params.text_document.uri, params.position
        # LSP does not tell a gesture from typing a word's first letter here
        text = await desk.asked(uri, _range(_at(cursor)), invoked=False)
        word, start = desk.word(uri, _range(_at(cursor))[0])
        whole = word + text
        entry = types.CompletionItem(
            label=" ".join(whole.split())[:LABEL],
            kind=types.CompletionItemKind.Text,
            detail="Evenhand",
            documentation=whole,
            filter_text=word or None,  # the word that is typed: editors filter by it
            insert_text_format=types.InsertTextFormat.PlainText,
            text_edit=types.TextEdit(types.Range(types.Position(*start), cursor), whole),
        )
        return types.CompletionList(is_incomplete=True, items=[entry] if text else [])


def _at(position: types.Position) -> types.Range:
    return types.Range(position, position)


def _range(found: types.Range) -> Range:
    """Return a range in the text's own words."""
    start, stop = (Position(each.line, each.character) for each in (found.start, found.end))
    return start, stop
