"""The application around the endpoints: errors, ids, health, models, the life of the engine."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from server import app as module
from server.app import create_app
from server.engines.scripted import Answer, Scripted
from server.settings import Settings


@pytest.fixture
def engine() -> Scripted:
    refusals = {"attention": "positions are learned"}
    return Scripted(lambda prompt, sampling: Answer(prompt), refusals=refusals)


@pytest.fixture
async def app(engine: Scripted) -> AsyncIterator[FastAPI]:
    made = create_app(Settings(served_model_name=("a", "b")), engine)

    @made.get("/broken")
    async def broken() -> None:
        raise KeyError("a secret")

    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def http(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


def error(reply: httpx.Response) -> dict[str, Any]:
    """Return the OpenAI error object, which must be whole."""
    assert reply.json().keys() == {"error"}
    found: dict[str, Any] = reply.json()["error"]
    assert found.keys() == {"message", "type", "param", "code"}
    return found


async def test_a_path_that_is_not_there(http: httpx.AsyncClient) -> None:
    reply = await http.get("/v2/nothing")
    assert reply.status_code == 404
    assert error(reply)["code"] == "not_found"


async def test_a_method_that_is_not_allowed(http: httpx.AsyncClient) -> None:
    reply = await http.get("/v1/completions")
    assert reply.status_code == 405
    assert reply.headers["allow"] == "POST"
    assert "must be POST on /v1/completions, got GET" in error(reply)["message"]


@pytest.mark.parametrize("path", ["/v1/models/", "//v1/models", "/v1//models", "/health/"])
async def test_slashes_more_than_a_path_has_do_not_matter(
    http: httpx.AsyncClient, path: str
) -> None:
    assert (await http.get(f"http://test{path}")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/ready"])
async def test_who_looks_after_a_server_may_ask_for_the_head(
    http: httpx.AsyncClient, path: str
) -> None:
    reply = await http.head(path)
    assert (reply.status_code, reply.content) == (200, b"")


KEYED = ("/version", "/openapi.json", "/docs", "/redoc", "/v1/models", "/v1/models/a")


async def test_with_keys_only_health_is_open(engine: Scripted) -> None:
    made = create_app(Settings(served_model_name=("a",), api_keys=("schl\u00fcssel",)), engine)
    transport = httpx.ASGITransport(made)
    async with (
        made.router.lifespan_context(made),
        httpx.AsyncClient(transport=transport, base_url="http://test") as http,
    ):
        known = httpx.Headers([(b"authorization", "Bearer schl\u00fcssel".encode())])
        for path in KEYED:
            reply = await http.get(path)
            assert reply.status_code in (401, 404), path
            if reply.status_code == 401:
                assert reply.headers["www-authenticate"] == "Bearer"
                assert (await http.get(path, headers=known)).status_code == 200
        assert (await http.get("/openapi.json", headers=known)).json()["paths"]
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/ready")).status_code == 200


async def test_a_fault_of_ours_is_logged_and_not_told(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    reply = await http.get("/broken", headers={"x-request-id": "mine"})
    assert reply.status_code == 500
    assert error(reply)["type"] == "server_error"
    assert "secret" not in reply.text
    assert reply.headers["x-request-id"] == "mine"
    assert "mine failed" in caplog.text
    assert "a secret" in caplog.text


async def test_a_request_has_an_id_in_its_answer_and_in_the_log(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "evenhand")
    given = await http.get("/health", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    assert "abc-1 GET /health 200" in caplog.text
    for strange in (b"a b", b"x" * 200, "é".encode(), b""):
        made = await http.get("/health", headers={b"x-request-id": strange})
        assert made.headers["x-request-id"].startswith("req_")


async def test_a_model_shows_the_fingerprint_of_its_replies(http: httpx.AsyncClient) -> None:
    reply = await http.post("/v1/completions", json={"prompt": "x"})
    cards = (await http.get("/v1/models")).json()["data"]
    assert {card["fingerprint"] for card in cards} == {reply.json()["system_fingerprint"]}


async def test_models_show_what_they_can_and_why_not_the_rest(http: httpx.AsyncClient) -> None:
    cards = (await http.get("/v1/models")).json()["data"]
    assert [card["id"] for card in cards] == ["a", "b"]
    assert (
        cards[0]
        | {
            "object": "model",
            "root": "scripted",
            "max_model_len": 1 << 20,
            "abilities": ["logprobs", "text"],
            "refusals": {"attention": "positions are learned"},
        }
        == cards[0]
    )
    assert {"created", "owned_by"} <= cards[0].keys()
    assert (await http.get("/v1/models/b")).json() == cards[1]
    assert (await http.get("/v1/models/b+pine")).json()["id"] == "b+pine"
    missing = await http.get("/v1/models/org/c")
    assert missing.status_code == 404
    assert error(missing)["code"] == "model_not_found"


async def test_ready_ends_with_draining_and_health_with_the_worker(
    http: httpx.AsyncClient, app: FastAPI, engine: Scripted
) -> None:
    assert (await http.get("/ready")).status_code == 200
    app.state.admission.drain()
    ready = await http.get("/ready")
    assert ready.status_code == 503
    assert "retry-after" in ready.headers
    refused = await http.post("/v1/completions", json={"prompt": "x"})
    assert refused.status_code == 503
    assert (await http.get("/health")).status_code == 200
    await engine.close()
    health = await http.get("/health")
    assert health.status_code == 503
    assert error(health)["code"] == "engine_dead"


async def test_an_engine_is_closed_by_who_made_it(
    engine: Scripted, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = create_app(Settings(), engine)
    async with given.router.lifespan_context(given):
        pass
    assert engine.alive
    monkeypatch.setattr(module, "load", lambda settings: engine)
    loaded = create_app(Settings())
    async with loaded.router.lifespan_context(loaded):
        assert engine.alive
    assert not engine.alive


async def test_before_the_model_is_there_nothing_is_answered(engine: Scripted) -> None:
    transport = httpx.ASGITransport(create_app(Settings(), engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for path in ("/ready", "/v1/models"):
            reply = await http.get(path)
            assert reply.status_code == 503
            assert error(reply)["code"] == "model_loading"
