"""Names of models, keys, bodies, and the patience of clients."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from asking import Client
from starlette.requests import ClientDisconnect, Request

from server.admission import Admission
from server.api.common import Service, resolve, until_disconnect
from server.engines.scripted import Scripted
from server.errors import EngineError, PlanError
from server.settings import Settings

Stages = list[dict[str, Any]] | None

KIND = "application/json"
PINE = {"stage": "pine"}


def a_service(*names: str) -> Service:
    settings = Settings(served_model_name=names)
    return Service(settings, Scripted([]), Admission(1))


@pytest.mark.parametrize(
    ("model", "stages", "name", "found"),
    [
        (None, None, "a", None),
        ("a", None, "a", None),
        ("a", [], "a", []),
        ("b", [PINE], "b", [PINE]),
        ("b+swap+pine", None, "b", [{"stage": "swap"}, PINE]),
        ("b+pine", [{"stage": "swap"}], "b", [{"stage": "swap"}, PINE]),
        ("a+x", None, "a+x", None),
        ("a+x+pine", None, "a+x", [PINE]),
    ],
)
def test_a_name_says_the_model_and_further_stages(
    model: str | None, stages: Stages, name: str, found: Stages
) -> None:
    assert resolve(a_service("a", "b", "a+x"), model, stages) == (name, found)


@pytest.mark.parametrize("model", ["c", "", "c+pine", "ab", "/etc/passwd"])
def test_another_name_is_404(model: str) -> None:
    with pytest.raises(PlanError, match="model must be one of a, b") as caught:
        resolve(a_service("a", "b"), model, None)
    assert (caught.value.status, caught.value.code) == (404, "model_not_found")


def a_request(left: asyncio.Event, admission: Admission) -> Request:
    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    service = Service(Settings(), Scripted([]), admission)
    app = SimpleNamespace(state=SimpleNamespace(service=service))
    return Request({"type": "http", "app": app}, receive)


class Work:
    """Runs until it is cancelled."""

    cancelled = False

    async def __call__(self) -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            self.cancelled = True
            raise


async def test_work_stops_when_the_client_goes() -> None:
    left, work = asyncio.Event(), Work()
    asyncio.get_running_loop().call_later(0.01, left.set)
    with pytest.raises(ClientDisconnect):
        await until_disconnect(a_request(left, Admission(1)), work())
    assert work.cancelled


async def test_work_stops_when_the_server_aborts() -> None:
    admission, work = Admission(1), Work()
    asyncio.get_running_loop().call_later(0.01, admission.abort)
    with pytest.raises(EngineError, match="server must be running") as caught:
        await until_disconnect(a_request(asyncio.Event(), admission), work())
    assert caught.value.status == 503
    assert work.cancelled


async def test_work_that_ends_says_what_it_made() -> None:
    request = a_request(asyncio.Event(), Admission(1))
    assert await until_disconnect(request, asyncio.sleep(0, "made")) == "made"
    with pytest.raises(PlanError, match="no"):
        await until_disconnect(request, _refuse())


async def _refuse() -> None:
    raise PlanError("no")


@pytest.mark.parametrize(
    "header", [None, "Bearer no", "Bearer ", "Basic right", "right", "Bearer rigth", "Bearer é"]
)
async def test_a_wrong_key_is_401_and_says_what_to_send(client: Client, header: str | None) -> None:
    http = await client(api_keys=("right", "other"))
    headers = {} if header is None else {b"authorization": header.encode()}
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/completions")):
        reply = await http.request(method, path, headers=headers, json={"prompt": "x"})
        assert reply.status_code == 401
        assert reply.json()["error"]["code"] == "invalid_api_key"


async def test_a_right_key_is_let_in_and_health_is_open(client: Client) -> None:
    http = await client(api_keys=("right", "other"))
    for key in ("right", "other"):
        reply = await http.get("/v1/models", headers={"authorization": f"bearer {key}"})
        assert reply.status_code == 200
    for path in ("/health", "/ready"):
        assert (await http.get(path)).status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "json"])
async def test_another_content_type_is_415(client: Client, kind: str) -> None:
    http = await client()
    body = b'{"prompt": "x"}'
    reply = await http.post("/v1/completions", content=body, headers={"content-type": kind})
    assert reply.status_code == 415
    assert "content-type must be application/json" in reply.json()["error"]["message"]


@pytest.mark.parametrize("kind", [None, "application/json", "Application/JSON; charset=utf-8"])
async def test_json_by_any_name_is_read(client: Client, kind: str | None) -> None:
    http = await client()
    headers = {} if kind is None else {"content-type": kind}
    body = b'{"prompt": "x\\u0000y"}'
    reply = await http.post("/v1/completions", content=body, headers=headers)
    assert reply.status_code == 200
    assert reply.json()["choices"][0]["text"] == "x\0y"


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/judge"])
async def test_a_chunked_body_takes_no_memory_beyond_its_limit(client: Client, path: str) -> None:
    http, limit, piece = await client(max_body_bytes=1 << 16), 1 << 16, 1 << 14

    async def endless() -> AsyncIterator[bytes]:
        for _ in range(100 * limit // piece):
            yield b" " * piece

    tracemalloc.start()
    try:
        reply = await http.post(path, content=endless(), headers={"content-type": KIND})
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reply.status_code == 413
    assert f"request body must be at most {limit} bytes" in reply.json()["error"]["message"]
    assert most < 20 * limit  # what is sent is a hundred times as much


async def test_strict_mode_refuses_unknown_fields(client: Client) -> None:
    http = await client(strict=True)
    reply = await http.post("/v1/completions", json={"prompt": "x", "foo": 1})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "foo"
