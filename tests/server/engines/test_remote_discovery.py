"""What is asked of another server before anything is served, and how it is reached."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
from other_server import OtherServer
from starlette.responses import JSONResponse, Response

from server.engines.remote import Access, RemoteEngine
from server.engines.remote.discovery import CONTEXT, Found, Logprobs, discover
from server.errors import EngineError, PlanError

TOP = [{"token": token, "logprob": -1.0} for token in ("A", "B")]


def answer(top: list[dict[str, Any]] | None) -> Response:
    content = [{"token": "A", "logprob": -1.0, "top_logprobs": top}]
    logprobs = None if top is None else {"content": content}
    choice = {"message": {"content": "A"}, "logprobs": logprobs, "finish_reason": "length"}
    return JSONResponse({"choices": [choice]})


def error(message: str, status: int = 400) -> Response:
    return JSONResponse({"error": {"message": message}}, status)


@pytest.fixture
def theirs(served: OtherServer) -> OtherServer:
    served.reset()
    served.models = JSONResponse({"data": [{"id": "one"}, {"id": "two"}]})
    served.answers = [lambda body: answer(TOP)]
    return served


def found(theirs: OtherServer, model: str | None = None, logprobs: Logprobs = "auto") -> Found:
    return discover(Access(theirs.address, retries=0), model, logprobs)


def test_the_first_model_and_one_token_with_its_alternatives(theirs: OtherServer) -> None:
    known = found(theirs)
    assert (known.dialect.model, known.context, known.refusal) == ("one", CONTEXT, None)
    assert known.dialect.alternatives == 20
    (asked,) = theirs.bodies
    assert (asked["max_tokens"], asked["top_logprobs"]) == (1, 20)


@pytest.mark.parametrize(
    "name", ["max_model_len", "context_length", "context_window", "max_context_length"]
)
def test_the_context_by_any_of_its_names(theirs: OtherServer, name: str) -> None:
    theirs.models = JSONResponse({"data": [{"id": "one"}, {"id": "two", name: 77}]})
    assert found(theirs, "two").context == 77
    assert found(theirs, "one").context == CONTEXT
    theirs.models = JSONResponse({"data": [{"id": "one", name: "many"}]})
    assert found(theirs).context == CONTEXT


def test_a_server_like_this_one_is_known_by_its_models(theirs: OtherServer) -> None:
    assert not found(theirs).dialect.ours
    theirs.models = JSONResponse({"data": [{"id": "one", "owned_by": "evenhand"}]})
    assert found(theirs).dialect.ours


@pytest.mark.parametrize(
    ("card", "continues", "template"),
    [
        ({}, False, None),
        ({"owned_by": "vllm"}, True, None),
        ({"owned_by": "evenhand"}, False, None),
        ({"owned_by": "evenhand", "chat": ["continued"], "judge_template": "plain"}, True, "plain"),
        ({"owned_by": "evenhand", "chat": "continued", "judge_template": 7}, False, None),
        ({"owned_by": "them", "chat": ["continued"], "judge_template": "plain"}, False, None),
    ],
)
def test_who_continues_a_last_message_and_which_template_a_model_knows(
    theirs: OtherServer, card: dict[str, Any], continues: bool, template: str | None
) -> None:
    theirs.models = JSONResponse({"data": [{"id": "one", **card}]})
    known = found(theirs)
    assert (known.dialect.continues, known.template) == (continues, template)
    made = RemoteEngine(Access(theirs.address), known, name="m", concurrency=1)
    assert made.info.chat == ({"system", "continued"} if continues else {"system"})
    assert made.info.template == template
    asyncio.run(made.close())


def test_what_it_says_of_its_model_is_kept(theirs: OtherServer) -> None:
    found_of: dict[str, str] = {}
    for named in ({}, {"root": "/weights/two"}, {"fingerprint": "fp_1"}, {"owned_by": "them"}):
        theirs.models = JSONResponse({"data": [{"id": "one", "created": len(found_of), **named}]})
        said = {found(theirs, logprobs=logprobs).said for logprobs in ("auto", "yes", "no")}
        (found_of[str(named)],) = said
        assert found(theirs).said in said  # the time of asking is not of the model
    assert len(set(found_of.values())) == 4


def test_a_model_that_is_not_listed_may_be_named(theirs: OtherServer) -> None:
    assert found(theirs, "alias").dialect.model == "alias"
    theirs.models = error("no such path", 404)
    assert found(theirs, "alias").dialect.model == "alias"


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (error("no such path", 404), "nothing at .*/v1/models; give .* name a --remote-model"),
        (JSONResponse({"data": []}), "must list a model, got none from http://"),
        (error("who are you", 401), "must accept the key, got status 401"),
        (error("down", 500), "must be well, got status 500"),
        (Response("<html>", media_type="text/html"), "which often ends in /v1"),
        (JSONResponse([]), "which often ends in /v1"),
    ],
)
def test_no_model_to_be_had(theirs: OtherServer, models: Response, said: str) -> None:
    theirs.models = models
    with pytest.raises(EngineError, match=said):
        found(theirs)


def test_a_model_that_the_server_does_not_know(theirs: OtherServer) -> None:
    theirs.answers = [lambda body: error("no model 'three'", 404)]
    with pytest.raises(EngineError, match="must know model 'three', got status 404 from"):
        found(theirs, "three")


def test_fewer_alternatives(theirs: OtherServer) -> None:
    def chat(body: dict[str, Any]) -> Response:
        return answer(TOP) if body["top_logprobs"] <= 5 else error("at most 5")

    theirs.answers = [chat]
    assert found(theirs).dialect.alternatives == 5


@pytest.mark.parametrize("top", [None, [], TOP[:1]])
def test_a_server_without_alternatives_has_no_log_probabilities(
    theirs: OtherServer, top: list[dict[str, Any]] | None
) -> None:
    theirs.answers = [lambda body: answer(top)]
    known = found(theirs)
    assert known.dialect.alternatives == 0
    assert known.refusal == "the remote server reports no log-probabilities"


def test_a_server_that_refuses_them(theirs: OtherServer) -> None:
    def chat(body: dict[str, Any]) -> Response:
        return error("logprobs are not supported") if "logprobs" in body else answer(None)

    for each in (chat, lambda body: error("logprobs are not supported")):
        theirs.answers = [each]
        known = found(theirs)
        assert known.dialect.alternatives == 0
        assert "refuses log-probabilities" in str(known.refusal)
        assert "logprobs are not supported" in str(known.refusal)


@pytest.mark.parametrize("scores", [True, False])
def test_a_model_that_wants_the_limit_by_its_newer_name(theirs: OtherServer, scores: bool) -> None:
    def chat(body: dict[str, Any]) -> Response:
        if "logprobs" in body and not scores:
            return error("logprobs are not supported")
        if "max_tokens" in body:
            return error("Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens'.")
        return answer(TOP if scores else None)

    theirs.answers = [chat]
    known = found(theirs)
    assert known.dialect.limit == "max_completion_tokens"
    assert known.dialect.alternatives == (20 if scores else 0)


@pytest.mark.parametrize(("told", "alternatives"), [("yes", 20), ("no", 0)])
def test_the_operator_may_say_so(theirs: OtherServer, told: Logprobs, alternatives: int) -> None:
    known = found(theirs, logprobs=told)
    assert theirs.bodies == []
    assert known.dialect.alternatives == alternatives
    assert (known.refusal is None) == (told == "yes")


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http://me:pass@host/v1", None, "remote URL cannot carry a password or a query"),
        ("http://host/v1?key=pass", None, "remote URL cannot carry a password or a query"),
        ("http://host/v1", "pass\n", "remote key must be of visible ASCII characters"),
        ("http://host/v1", "pass é", "remote key must be of visible ASCII characters"),
        ("http://host/v1", "", "remote key must be of visible ASCII characters"),
    ],
)
def test_an_access_that_could_give_secrets_away(url: str, key: str | None, said: str) -> None:
    with pytest.raises(PlanError, match=said) as caught:
        Access(url, key)
    assert "pass" not in caught.value.message.replace("password", "")


CHILD = """
import sys
from server.app import create_app
from server.engines.registry import load
from server.settings import Settings
settings = Settings(engine="remote", remote_url=sys.argv[1], remote_timeout=20)
create_app(settings, load(settings))
print(*{"torch", "transformers"} & sys.modules.keys())
"""


def test_no_torch_is_imported_for_it(theirs: OtherServer) -> None:
    command = [sys.executable, "-c", CHILD, theirs.address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
