"""`/v1/edit-sessions`: the bodies, and the frames of its socket."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from server.errors import PlanError
from server.job import Job, Sampling
from server.protocol.common import Body, Items
from server.protocol.completions import DEFAULT_MAX_TOKENS
from server.protocol.generation import MOST_ALTERNATIVES, Generation
from server.protocol.replies import Head
from server.sessions import document as nouns
from server.sessions.document import Document
from server.sessions.text import Encoding, Position, Text
from server.sessions.versions import Revision

MOST_CHANGES = 1000
MOST_MESSAGES = 1000
MOST_MILLISECONDS = 24 * 3600 * 1000
WHOLE = 2**53  # the largest whole number that every JSON reader keeps

Count = Annotated[int, Field(ge=0, lt=WHOLE)]
Fill = Literal["auto", "never"]


class Place(BaseModel):
    """A line and a column, both counted from 0, as in LSP."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    line: Count
    character: Count

    @property
    def position(self) -> Position:
        """Return the place."""
        return Position(self.line, self.character)


class Span(BaseModel):
    """From one place to another, the end left out."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    start: Place
    end: Place


class MessageBody(BaseModel):
    """A message whose text is edited."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    role: Annotated[str, Field(min_length=1, max_length=64)]
    content: str


class ChangeBody(BaseModel):
    """One change: of a text, or of which messages there are; `rangeLength` is LSP's, and its past.

    range           which text is replaced
    offset, length  the same in code units
    text            by what; without range and offset it is the whole text
    message         which one of a chat, from 0; left out = the last, with `role` the end
    role            a new message, before `message`
    remove          the message goes
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    range: Span | None = None
    offset: Count | None = None
    length: Count | None = None
    rangeLength: Count | None = None  # noqa: N815  # LSP's name
    text: str | None = None
    message: Count | None = None
    role: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    remove: bool = False

    @property
    def change(self) -> nouns.Change:
        """Return the change (PlanError if its fields contradict each other)."""
        if self.remove:
            return nouns.Remove(self._removed())
        if self.text is None:
            raise _contradiction("have a text, got none", "send '' to delete")
        placed = self.range is not None or self.offset is not None
        if self.role is not None:
            if placed:
                raise _contradiction("have no place with a role", "a new message has none")
            return nouns.Insert(self.role, self.text, self.message)
        if self.range is not None and self.offset is not None:
            raise _contradiction("have a range or an offset, got both", "send one")
        place: nouns.Range | nouns.Extent | None = None
        if self.range is not None:
            place = nouns.Range(self.range.start.position, self.range.end.position)
        elif self.offset is not None:
            place = nouns.Extent(self.offset, self.length or 0)
        elif self.length is not None:
            raise _contradiction("have an offset with its length, got none", "send both")
        return nouns.Rewrite(self.text, place, self.message)

    def _removed(self) -> int:
        given = (self.range, self.offset, self.length, self.text, self.role)
        if self.message is None or any(each is not None for each in given):
            raise _contradiction("name a message and no more where it removes", "send both alone")
        return self.message


def _contradiction(must: str, advice: str) -> PlanError:
    return PlanError(f"change must {must}; {advice}", param="changes")


Messages = Annotated[Items[MessageBody], Field(min_length=1, max_length=MOST_MESSAGES)]


class Content(Body):
    """A document: one text, or messages."""

    text: str | None = None
    messages: Messages | None = None

    def document(self) -> Document | None:
        """Return it, or None if none is given (PlanError for both)."""
        if self.text is not None and self.messages is not None:
            raise PlanError(
                "text and messages cannot both be given, got both; send one", param="text"
            )
        if self.text is not None:
            return Document.of(self.text)
        if self.messages is None:
            return None
        texts = tuple(Text.of(message.content) for message in self.messages)
        return Document(texts, tuple(message.role for message in self.messages))


class OpenBody(Content):
    """`POST /v1/edit-sessions`.

    stages  left out = `pie`, where the model can be read so
    """

    model: str | None = None
    stages: list[Any] | None = None


class EditBody(Content):
    """`PATCH /v1/edit-sessions/{id}`, and the frame `edit`.

    text, messages  instead of changes: the whole document, whatever there was
    hash            that the client has after it; the edit is refused if the result has another
    wait            answer once the model has read it, with what that cost
    """

    base_version: Count | None = None
    version: Count | None = None
    changes: Annotated[Items[ChangeBody], Field(max_length=MOST_CHANGES)] | None = None
    encoding: Encoding = "utf-16"
    hash: str | None = None
    wait: bool = False

    def revision(self) -> Revision:
        """Return what is asked (PlanError)."""
        whole = self.document()
        if (whole is None) == (self.changes is None):
            raise PlanError(
                "edit must have changes, or else the whole text or messages, got "
                f"{'neither' if whole is None else 'both'}; send one of them",
                param="changes",
            )
        if whole is None and self.base_version is None:
            raise PlanError(
                "base_version must be given with changes, got none; send the version that they "
                "were made for",
                param="base_version",
            )
        changes = tuple(each.change for each in self.changes or ())
        numbers = self.base_version, self.version
        return Revision(*numbers, changes, self.encoding, whole, self.hash)


class PlaceBody(Body):
    """Where something is asked; left out = the end of the text."""

    position: Place | None = None
    offset: Count | None = None
    encoding: Encoding = "utf-16"
    fim: Fill = "auto"


class CompleteBody(Generation, PlaceBody):
    """`POST /v1/edit-sessions/{id}/complete`, and the frame `complete`.

    fim          auto = what stands behind the place is told to a model that can fill in
    exact        nothing is left that was read with another text before it
    deadline_ms  after which the answer ends with what there is
    version      that the place was taken from; another is 409
    """

    prefix: ClassVar[str] = "cmpl"

    exact: bool = False
    deadline_ms: Annotated[int, Field(ge=1, le=MOST_MILLISECONDS)] | None = None
    version: Count | None = None
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    continue_final_message: bool | None = None

    def refuse(self) -> None:
        """Raise PlanError for what a session has, or cannot do."""
        super().refuse()
        for name in ("model", "stages", "documents", "response_format"):
            if name != "response_format" and getattr(self, name) is not None:
                raise PlanError(
                    f"{name} must be left out where a session is asked, got it; make the session "
                    "with it, or another",
                    param=name,
                )
        if self.choices != 1:
            raise PlanError(f"n must be 1 in a session, got {self.n}; ask several times", param="n")

    def job(self, head: Head) -> Job:
        """Return what was asked as a job, without its prompt: the session has it."""
        return Job(head.model, self.asked(chat=head.id.startswith("chatcmpl")), id=head.id)

    def asked(self, *, chat: bool) -> Sampling:
        """Return how tokens are chosen; a chat answers up to the context's end."""
        most = self.max_tokens
        if most is None and not chat:
            most = DEFAULT_MAX_TOKENS
        return self.sampling(max_tokens=most, logprobs=self.logprobs)


class EditFrame(EditBody):
    """`{"type": "edit"}`."""

    type: Literal["edit"]


class CompleteFrame(CompleteBody):
    """`{"type": "complete"}`; `id` is what its deltas are called."""

    type: Literal["complete"]
    id: Annotated[str, Field(min_length=1, max_length=200)]


class CancelFrame(Body):
    """`{"type": "cancel"}`."""

    type: Literal["cancel"]
    id: str
