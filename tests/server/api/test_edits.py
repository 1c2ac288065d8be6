"""Edit sessions over HTTP, around a scripted engine that keeps its text."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from asking import Client

from server.chunk import Chunk
from server.engines.scripted import Answer, Scripted
from server.errors import PlanError
from server.job import Work
from server.prompt import ChatPrompt, TextPrompt
from server.sessions import session as sessions

PATH = "/v1/edit-sessions"


def kept(text: str | None = None) -> Scripted:
    """Return an engine that keeps its text, and repeats it or says the same always."""
    return Scripted(
        lambda prompt, _: Answer(prompt if text is None else text), ("text", "attention")
    )


class Paced(Scripted):
    """Says one word for each time that it is let."""

    def __init__(self, text: str) -> None:
        super().__init__(lambda prompt, _: Answer(text), ("text", "attention"))
        self.let = asyncio.Semaphore(0)

    async def _stream(self, work: Work) -> AsyncIterator[Chunk]:
        async for chunk in super()._stream(work):
            await self.let.acquire()
            yield chunk


async def at_work(engine: Scripted, answers: int) -> None:
    """Wait until so many answers are written."""
    async with asyncio.timeout(5):
        while engine.running != answers:  # noqa: ASYNC110  the engine has no event for it
            await asyncio.sleep(0.001)


async def opened(http: httpx.AsyncClient, **body: Any) -> str:
    """Make a session, and return its path."""
    reply = await http.post(PATH, json=body)
    assert reply.status_code == 200, reply.text
    return f"{PATH}/{reply.json()['id']}"


def typed(version: int, offset: int, text: str, length: int = 0) -> dict[str, Any]:
    """Return an edit that puts text at an offset."""
    changes = [{"offset": offset, "length": length, "text": text}]
    return {"base_version": version, "version": version + 1, "changes": changes}


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def at(line: int, character: int, to: int | None = None, text: str = "") -> dict[str, Any]:
    """Return a change on one line."""
    end = {"line": line, "character": character if to is None else to}
    return {"range": {"start": {"line": line, "character": character}, "end": end}, "text": text}


async def test_a_text_is_made_edited_asked_about_shown_and_dropped(client: Client) -> None:
    http = await client(kept())
    made = (await http.post(PATH, json={"text": "one\ntwo 🦊 three\n"})).json()
    assert (made["version"], made["hash"], made["model"]) == (
        0,
        sha("one\ntwo 🦊 three\n"),
        "pocket",
    )
    assert made["stages"] == [{"stage": "pie"}]
    path = f"{PATH}/{made['id']}"
    changes = [at(1, 7, 12, "four"), at(0, 99, text=" and"), {"offset": 3, "length": 4, "text": ""}]
    edit = {"base_version": 0, "version": 3, "changes": changes, "wait": True}
    text = "one\ntwo 🦊 four\n"
    said = (await http.patch(path, json=edit)).json()
    assert (said["version"], said["hash"], said["read_version"]) == (3, sha(text), 3)
    assert said["tokens"] == {"reused": 0, "moved": 0, "recomputed": 1}
    where = {"position": {"line": 1, "character": 6}, "max_tokens": 5}
    reply = (await http.post(f"{path}/complete", json=where)).json()
    assert reply.get("object") == "text_completion", reply
    assert reply["choices"][0]["text"] == "one\ntwo 🦊"
    assert reply["evenhand"]["stages"] == [{"stage": "pie"}]
    assert reply["evenhand"]["notes"]["session"] == {"id": made["id"], "version": 3}
    shown = (await http.get(path)).json()
    assert (shown["text"], shown["version"], shown["hash"]) == (text, 3, sha(text))
    assert (await http.delete(path)).json() == {
        "id": made["id"],
        "object": "edit_session",
        "deleted": True,
    }
    assert (await http.get(path)).status_code == 404


async def test_an_edit_that_came_before_is_acknowledged_again_and_changes_nothing(
    client: Client,
) -> None:
    http = await client(kept())
    path = await opened(http, text="ab")
    first = (await http.patch(path, json=typed(0, 2, "c"))).json()
    assert (await http.patch(path, json=typed(1, 3, "d"))).json()["version"] == 2
    again = (await http.patch(path, json=typed(0, 2, "c"))).json()
    assert (again["version"], again["hash"]) == (first["version"], first["hash"]) == (1, sha("abc"))
    assert (await http.get(path)).json()["text"] == "abcd"


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (typed(0, 0, "x"), "stale"),
        (typed(9, 0, "x"), "gap"),
        ({**typed(1, 0, "x"), "hash": sha("else")}, "hash"),
    ],
)
async def test_an_edit_that_does_not_fit_is_409_and_the_whole_text_mends_it(
    client: Client, monkeypatch: pytest.MonkeyPatch, edit: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(sessions, "HOLD_SECONDS", 0.01)
    http = await client(kept())
    path = await opened(http, text="ab")
    await http.patch(path, json=typed(0, 2, "c"))
    refused = await http.patch(path, json=edit)
    assert refused.status_code == 409
    error = refused.json()["error"]
    assert (error["code"], error["reason"]) == (f"version_{reason}", reason)
    assert (error["expected_version"], error["hash"]) == (1, sha("abc"))
    assert (await http.get(path)).json()["text"] == "abc"
    mended = (await http.patch(path, json={"text": "new", "version": 20})).json()
    assert (mended["version"], mended["hash"]) == (20, sha("new"))
    assert (await http.patch(path, json=typed(20, 3, "er"))).json()["hash"] == sha("newer")


async def test_an_edit_that_comes_too_early_waits_for_those_before_it(client: Client) -> None:
    http = await client(kept())
    path = await opened(http, text="")
    edits = [typed(version, version, str(version)) for version in range(9)]
    replies = await asyncio.gather(*(http.patch(path, json=edit) for edit in reversed(edits)))
    assert [reply.json()["version"] for reply in reversed(replies)] == list(range(1, 10))
    assert (await http.get(path)).json()["text"] == "012345678"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ([at(0, 1, 0, "x")], "change must begin before it ends"),
        ([{"offset": 0, "length": 9, "text": ""}], "offset must be 0 to 4 in utf-16, got 9"),
        ([{"offset": 2, "text": "x"}], "place must be between two characters"),
        ([{"offset": 0}], "change must have a text"),
        ([{**at(0, 0), "offset": 0}], "have a range or an offset, got both"),
        ([{"role": "user", "text": "x"}], "messages make a session with messages"),
        ([{"text": "x", "message": 1}], "message must be the number of one that is there, 0 to 0"),
        ([{"text": "x"}] * 1001, "changes must have at most 1000"),
        ([{"text": "x", "odd": 1}], "odd cannot be given"),
    ],
)
async def test_nothing_is_half_applied(
    client: Client, changes: list[dict[str, Any]], said: str
) -> None:
    http = await client(kept())
    path = await opened(http, text="a🦊b")
    good = {"offset": 0, "text": "good"}
    edit = {"base_version": 0, "version": 1, "changes": [good, *changes]}
    if said.startswith("offset") or "characters" in said:
        edit["changes"] = [*changes, good]
    refused = await http.patch(path, json=edit)
    assert refused.status_code == 400
    assert said in refused.json()["error"]["message"]
    shown = (await http.get(path)).json()
    assert (shown["text"], shown["version"]) == ("a🦊b", 0)


@pytest.mark.parametrize(("encoding", "offset"), [("utf-16", 3), ("utf-8", 5), ("utf-32", 2)])
async def test_places_count_in_what_the_client_says(
    client: Client, encoding: str, offset: int
) -> None:
    http = await client(kept())
    path = await opened(http, text="a🦊b")
    change = {"offset": offset, "length": 1, "text": "c"}
    edit = {"base_version": 0, "changes": [change], "encoding": encoding}
    assert (await http.patch(path, json=edit)).json()["hash"] == sha("a🦊c")
    where = {"offset": offset, "encoding": encoding}
    reply = (await http.post(f"{path}/complete", json=where)).json()
    assert reply["choices"][0]["text"] == "a🦊"


async def test_what_stands_behind_the_cursor_is_told_unless_it_is_not_wanted(
    client: Client,
) -> None:
    engine = kept()
    http = await client(engine)
    path = await opened(http, text="before after")
    for fill in ({}, {"fim": "never"}):
        await http.post(f"{path}/complete", json={"offset": 7, **fill})
    suffixes = [work.prompts[0] for work in engine.works]
    assert [each.suffix for each in suffixes if isinstance(each, TextPrompt)] == ["after", None]


class Unfilled(Scripted):
    """Has no tokens to fill in with."""

    async def generate(self, work: Work) -> AsyncIterator[Chunk]:
        if any(isinstance(each, TextPrompt) and each.suffix for each in work.prompts):
            raise PlanError("suffix must be left out for this model", param="suffix")
        return await super().generate(work)


@pytest.mark.parametrize("abilities", [("text",), ("text", "attention")])
async def test_a_model_that_cannot_fill_in_continues(
    client: Client, abilities: tuple[Any, ...]
) -> None:
    engine = Unfilled(lambda prompt, _: Answer(prompt), abilities)
    http = await client(engine)
    path = await opened(http, text="before after")
    for _ in range(2):
        reply = (await http.post(f"{path}/complete", json={"offset": 7})).json()
        assert reply["choices"][0]["text"] == "before "


async def test_where_nothing_is_kept_the_whole_text_is_sent_and_the_reply_says_so(
    client: Client,
) -> None:
    http = await client()
    path = await opened(http, text="a b")
    assert (await http.patch(path, json={**typed(0, 3, " c"), "wait": True})).json()[
        "tokens"
    ] is None
    reply = (await http.post(f"{path}/complete", json={})).json()
    assert reply["choices"][0]["text"] == "a b c"
    assert reply["evenhand"]["stages"] == []
    [warning] = reply["evenhand"]["warnings"]
    assert warning.startswith("the whole text is read for every answer")
    refused = await http.post(f"{path}/fidelity", json={})
    assert refused.status_code == 400
    assert "session must keep a cache" in refused.json()["error"]["message"]


async def test_stages_of_the_caller_run_around_the_whole_text(client: Client) -> None:
    http = await client(kept())
    plain = await opened(http, text="a b", stages=[])
    reply = (await http.post(f"{plain}/complete", json={"deterministic": True})).json()
    assert reply["evenhand"] == {
        "stages": [],
        "notes": {"session": {"id": plain.removeprefix(f"{PATH}/"), "version": 0}},
    }
    refused = await http.post(PATH, json={"text": "x", "stages": [{"stage": "pine"}]})
    assert refused.status_code == 400


async def test_the_numbers_of_pie_are_the_callers(client: Client) -> None:
    engine = kept()
    http = await client(engine)
    asked = [{"stage": "pie", "heal_after": 0, "heal_read": 0.1}]
    path = await opened(http, text="a b", stages=asked)
    reply = (await http.post(f"{path}/complete", json={})).json()
    assert reply["evenhand"]["stages"] == asked
    reading = engine.works[-1].reading
    assert reading is not None and dict(reading.numbers)["heal_read"] == 0.1
    wrong = await http.post(PATH, json={"text": "x", "stages": [{"stage": "pie", "heal_read": 2}]})
    assert wrong.status_code == 400 and "heal_read" in wrong.json()["error"]["message"]


async def test_pie_is_refused_of_a_text_that_does_not_stay(client: Client) -> None:
    http = await client(kept())
    body = {"prompt": "a b", "stages": [{"stage": "pie"}]}
    refused = await http.post("/v1/completions", json=body)
    assert refused.status_code == 400
    assert "open it at /v1/edit-sessions" in refused.json()["error"]["message"]


async def test_fidelity_is_told_on_demand(client: Client) -> None:
    http = await client(kept())
    path = await opened(http, text="a b c d")
    await http.patch(path, json={**typed(0, 7, ""), "wait": True})
    await http.patch(path, json=typed(1, 2, "x "))
    found = (await http.post(f"{path}/fidelity", json={"fim": "never"})).json()
    assert found["object"] == "edit_session.fidelity"
    assert {name: found[name] for name in ("kl", "top1", "stale_fraction", "edits", "version")} == {
        "kl": 0.0,
        "top1": True,
        "stale_fraction": 3 / 5,
        "edits": 1,
        "version": 2,
    }


async def test_a_chat_is_edited_and_answered(client: Client) -> None:
    engine = kept()
    http = await client(engine)
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hello"}]
    path = await opened(http, messages=messages)
    changes = [
        {"offset": 0, "length": 5, "text": "bye"},
        {"text": "behave", "message": 0},
        {"role": "assistant", "text": "well"},
        {"role": "user", "text": "never", "message": 2},
        {"message": 2, "remove": True},
    ]
    edit = {"base_version": 0, "version": 1, "changes": changes}
    said = (await http.patch(path, json=edit)).json()
    texts = [("system", "behave"), ("user", "bye"), ("assistant", "well")]
    lines = "".join(f"{role} {sha(text)}\n" for role, text in texts)
    assert said["hash"] == sha(lines)
    reply = (await http.post(f"{path}/complete", json={"continue_final_message": True})).json()
    assert reply["object"] == "chat.completion"
    assert reply["choices"][0]["message"]["content"] == "behave\nbye\nwell"
    prompt = engine.works[-1].prompts[0]
    assert isinstance(prompt, ChatPrompt)
    assert prompt.continued
    shown = (await http.get(path)).json()
    assert shown["messages"] == [{"role": role, "content": text} for role, text in texts]
    refused = await http.post(f"{path}/complete", json={"offset": 1})
    assert "must be left out of a chat" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("model", "pocket"), ("stages", []), ("documents", ["x"]), ("n", 2), ("deterministic", True)],
)
async def test_what_a_session_has_or_cannot_do_is_refused(
    client: Client, field: str, value: object
) -> None:
    http = await client(kept())
    path = await opened(http, text="x")
    refused = await http.post(f"{path}/complete", json={field: value})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)


async def test_an_answer_comes_as_events_too(client: Client) -> None:
    http = await client(kept())
    path = await opened(http, text="a b c")
    reply = await http.post(f"{path}/complete", json={"stream": True, "stop": ["z"]})
    assert reply.headers["content-type"].startswith("text/event-stream")
    assert reply.text.count("data: ") == 5
    assert reply.text.endswith("data: [DONE]\n\n")


async def test_typing_what_is_predicted_keeps_the_answer_going(client: Client) -> None:
    engine = Paced("one two three four")
    http = await client(engine)
    path = await opened(http, text="x = ; y")
    asked = asyncio.create_task(http.post(f"{path}/complete", json={"offset": 4}))
    await at_work(engine, 1)
    assert (await http.patch(path, json=typed(0, 4, "on"))).status_code == 200
    engine.let.release()
    await asyncio.sleep(0.01)
    assert (await http.patch(path, json=typed(1, 6, "e t"))).status_code == 200
    for _ in range(4):
        engine.let.release()
    reply = (await asked).json()
    assert reply["choices"][0]["text"] == "one two three four"
    assert len(engine.works) == 1


@pytest.mark.parametrize(
    "edit",
    [
        typed(0, 4, "two"),
        typed(0, 3, "o"),
        typed(0, 4, "o", length=1),
        {"text": "x = one ; y"},
    ],
)
async def test_any_other_edit_takes_the_answer_back(client: Client, edit: dict[str, Any]) -> None:
    engine = Paced("one two three four")
    http = await client(engine)
    path = await opened(http, text="x = ; y")
    asked = asyncio.create_task(http.post(f"{path}/complete", json={"offset": 4}))
    await at_work(engine, 1)
    engine.let.release()
    await asyncio.sleep(0.01)
    assert (await http.patch(path, json=edit)).status_code == 200
    reply = await asked
    assert reply.status_code == 409
    assert reply.json()["error"]["code"] == "completion_cancelled"
    await at_work(engine, 0)


async def test_typing_ahead_of_the_answer_is_compared_as_it_comes(client: Client) -> None:
    engine = Paced("one two three four")
    http = await client(engine)
    path = await opened(http, text="x = ")
    asked = asyncio.create_task(http.post(f"{path}/complete", json={}))
    await at_work(engine, 1)
    assert (await http.patch(path, json=typed(0, 4, "one too"))).status_code == 200
    engine.let.release()
    await asyncio.sleep(0.01)
    assert not asked.done()
    engine.let.release()
    assert (await asked).status_code == 409


async def test_a_new_question_takes_the_old_one_back(client: Client) -> None:
    engine = Paced("one two")
    http = await client(engine)
    path = await opened(http, text="x = ")
    old = asyncio.create_task(http.post(f"{path}/complete", json={}))
    await at_work(engine, 1)
    new = asyncio.create_task(http.post(f"{path}/complete", json={}))
    assert "another question" in (await old).json()["error"]["message"]
    for _ in range(4):
        engine.let.release()
    assert (await new).json()["choices"][0]["text"] == "one two"


async def test_an_answer_ends_when_its_time_is_over(client: Client) -> None:
    engine = Paced("one two")
    http = await client(engine)
    path = await opened(http, text="a b c")
    engine.let.release()
    reply = (await http.post(f"{path}/complete", json={"deadline_ms": 50})).json()
    [choice] = reply["choices"]
    assert choice["text"] == "one"
    assert (choice["finish_reason"], choice["stop_reason"]) == ("length", "deadline")
    assert reply["usage"]["prompt_tokens"] == 3
    await at_work(engine, 0)


async def test_a_session_belongs_to_the_key_that_made_it(client: Client) -> None:
    http = await client(kept(), api_keys="one,two")
    mine, other = ({"authorization": f"Bearer {key}"} for key in ("one", "two"))
    made = await http.post(PATH, json={"text": "secret"}, headers=mine)
    path = f"{PATH}/{made.json()['id']}"
    assert (await http.get(path, headers=mine)).json()["text"] == "secret"
    assert (await http.get(path)).status_code == 401
    for reply in (
        await http.get(path, headers=other),
        await http.patch(path, json=typed(0, 0, "x"), headers=other),
        await http.post(f"{path}/complete", json={}, headers=other),
        await http.post(f"{path}/fidelity", json={}, headers=other),
        await http.delete(path, headers=other),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "session_not_found")
        assert "secret" not in reply.text


async def test_the_least_used_session_makes_room_and_is_gone_for_good(client: Client) -> None:
    http = await client(kept(), session_bytes=2**20)
    paths = [await opened(http, text="x" * 300_000) for _ in range(3)]
    assert (await http.get(paths[0])).status_code == 200
    paths.append(await opened(http, text="y" * 300_000))
    gone = await http.get(paths[1])
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "session_evicted")
    assert "POST /v1/edit-sessions" in gone.json()["error"]["message"]
    assert [(await http.get(path)).status_code for path in paths] == [200, 410, 200, 200]
    refused = await http.post(PATH, json={"text": "x" * 2_000_000})
    assert refused.status_code == 413


async def test_a_text_cannot_grow_beyond_the_largest_body(client: Client) -> None:
    http = await client(kept(), max_body_bytes=1024)
    path = await opened(http, text="x" * 900)
    refused = await http.patch(path, json=typed(0, 0, "y" * 200))
    assert refused.status_code == 413
    assert (await http.get(path)).json()["text"] == "x" * 900
