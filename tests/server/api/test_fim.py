"""What editors send and read: llama.cpp's `/infill`, and Mistral's `/v1/fim/completions`."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest
from asking import Client

from server.chunk import LEFT_OUT, Chunk
from server.engines.scripted import Answer, Scripted
from server.job import Sampling
from server.prompt import File, FillPrompt, TextPrompt

INFILL, FIM = "/infill", "/v1/fim/completions"
CODE = "x = 1\n    y = 2\nz = 3"
VIM: dict[str, Any] = {  # what llama.vim sends
    "input_prefix": "def f():\n",
    "input_suffix": "\nf()\n",
    "input_extra": [{"text": "A = 1", "time": [1, 2], "filename": "a.py"}],
    "prompt": "    x",
    "n_predict": 128,
    "stop": [],
    "n_indent": 4,
    "top_k": 40,
    "top_p": 0.9,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": [
        "content",
        "timings/prompt_n",
        "timings/prompt_ms",
        "timings/prompt_per_token_ms",
        "timings/prompt_per_second",
        "timings/predicted_n",
        "timings/predicted_ms",
        "timings/predicted_per_token_ms",
        "timings/predicted_per_second",
        "truncated",
        "tokens_cached",
    ],
}
WARM_UP = VIM | {
    "input_prefix": "",
    "input_suffix": "",
    "prompt": "",
    "n_predict": 0,
    "temperature": 0.0,
    "samplers": [],
    "t_max_prompt_ms": 1,
    "t_max_predict_ms": 1,
    "response_fields": [""],
}


def saying(text: str, *abilities: Any) -> Scripted:
    return Scripted(lambda prompt, sampling: Answer(text), ("text", "logprobs", *abilities))


def events(reply: httpx.Response) -> list[dict[str, Any]]:
    said = [each for each in reply.text.split("\n\n") if each]
    return [json.loads(each.removeprefix("data: ")) for each in said if each != "data: [DONE]"]


def work_of(engine: Scripted) -> tuple[FillPrompt, Sampling]:
    [prompt] = engine.works[-1].prompts
    assert isinstance(prompt, FillPrompt)
    return prompt, engine.works[-1].sampling


async def test_llama_vim_gets_the_fields_it_reads_and_no_more(client: Client) -> None:
    engine = saying("= 1")
    reply = (await (await client(engine)).post(INFILL, json=VIM)).json()
    assert set(reply) == {*VIM["response_fields"], "evenhand"}
    assert (reply["content"], reply["truncated"], reply["tokens_cached"]) == ("= 1", False, 0)
    assert reply["timings/predicted_n"] == 2
    assert reply["evenhand"]["warnings"] == [
        "field 't_max_prompt_ms' has no effect: a prompt is read to its end",
        "sampler 'infill' is answered by the likeliest token",
    ]
    prompt, sampling = work_of(engine)
    files = (File("a.py", "A = 1"),)
    assert prompt == FillPrompt("def f():\n", "\nf()\n", "    x", files, room=128)
    asked = (sampling.temperature, sampling.top_k, sampling.top_p, sampling.max_tokens)
    assert asked == (0.0, 40, 0.9, 128)


async def test_a_warm_up_reads_and_says_nothing(client: Client) -> None:
    engine = saying("more")
    reply = await (await client(engine)).post(INFILL, json=WARM_UP)
    assert reply.json().keys() == {"evenhand"}  # the warnings alone
    assert work_of(engine)[1].max_tokens == 0
    body = {name: value for name, value in WARM_UP.items() if name != "t_max_prompt_ms"}
    assert (await (await client(engine)).post(INFILL, json=body)).json() == {}


async def test_all_fields_where_none_are_named(client: Client) -> None:
    http = await client(saying("a b"))
    reply = (await http.post(INFILL, json={"input_prefix": "p", "id_slot": 3, "seed": -1})).json()
    assert reply["content"] == "a b"
    assert (reply["stop"], reply["stop_type"], reply["stopping_word"]) == (True, "eos", "")
    assert (reply["tokens_predicted"], reply["tokens_evaluated"]) == (2, 1)
    assert (reply["model"], reply["id_slot"], reply["has_new_line"]) == ("pocket", 3, False)
    timings = reply["timings"]
    assert (timings["prompt_n"], timings["predicted_n"], timings["cache_n"]) == (1, 2, 0)
    assert min(timings.values()) >= 0
    settings = reply["generation_settings"]  # llama.cpp's own defaults
    assert settings["n_predict"] == settings["seed"] == -1
    numbers = [settings[name] for name in ("temperature", "top_k", "top_p", "min_p")]
    assert numbers == [0.8, 40, 0.95, 0.05]
    assert reply["evenhand"] == {"stages": [], "notes": {}}


async def test_a_stream_of_pieces_ends_with_all_fields(client: Client) -> None:
    http = await client(saying(CODE))
    body = {"input_prefix": "p", "stream": True, "n_indent": 1}
    *pieces, last = events(await http.post(INFILL, json=body))
    assert "".join(each["content"] for each in pieces) == "x = 1\n    y = 2"
    assert not any(each["stop"] for each in pieces)
    assert (last["stop"], last["content"], last["stop_type"]) == (True, "", "limit")
    assert last["has_new_line"] and last["tokens_predicted"] == 7


@pytest.mark.parametrize(
    ("more", "content", "kind"),
    [
        ({}, CODE, "eos"),
        ({"n_indent": 4}, "x = 1\n    y = 2", "limit"),
        ({"n_indent": 5}, "x = 1", "limit"),
        ({"n_predict": 3}, "x = 1", "limit"),
        ({"t_max_predict_ms": 1e-9}, "x = 1", "limit"),
        ({"t_max_predict_ms": 60_000}, CODE, "eos"),
    ],
)
async def test_where_the_text_ends(
    client: Client, more: dict[str, Any], content: str, kind: str
) -> None:
    engine = saying(CODE)
    http = await client(engine)
    reply = (await http.post(INFILL, json={"input_prefix": "p", **more})).json()
    assert (reply["content"], reply["stop_type"]) == (content, kind)
    assert engine.running == 0


async def test_stop_strings_and_a_single_line_reach_the_engine(client: Client) -> None:
    engine = saying("x")
    http = await client(engine)
    await http.post(INFILL, json={"stop": ["a", "b"], "single_line": True})
    assert work_of(engine)[1].stop == ("a", "b", "\n")
    await http.post(FIM, json={"prompt": "a", "stop": "c", "single_line": True})
    assert work_of(engine)[1].stop == ("c", "\n")


async def test_only_the_samplers_that_are_named_count(client: Client) -> None:
    engine = saying("x")
    http = await client(engine)
    numbers = {"temperature": 0.3, "top_k": 7, "top_p": 0.4, "min_p": 0.2, "repeat_penalty": 1.5}

    async def sampled(**more: Any) -> tuple[float, ...]:
        reply = await http.post(INFILL, json={**numbers, **more})
        assert reply.status_code == 200, reply.text
        found = work_of(engine)[1]
        return (
            found.temperature, found.top_k, found.top_p, found.min_p, found.repetition_penalty
        )  # fmt: skip

    assert await sampled() == (0.3, 7, 0.4, 0.2, 1.5)
    assert await sampled(samplers=["top_k", "temperature"]) == (0.3, 7, 1.0, 0.0, 1.0)
    assert await sampled(samplers="ept") == (0.3, 0, 0.4, 0.0, 1.5)
    assert await sampled(samplers=[]) == (1.0, 0, 1.0, 0.0, 1.0)
    assert await sampled(samplers=["infill"]) == (0.0, 0, 1.0, 0.0, 1.0)
    assert await sampled(top_k=-1, temperature=-1) == (0.0, 0, 0.4, 0.2, 1.5)
    biased = {"logit_bias": [[5, 1.5], [6, False]], "ignore_eos": True, "seed": 9}
    await http.post(INFILL, json=biased)
    found = work_of(engine)[1]
    assert (found.logit_bias, found.ignore_eos, found.seed) == ({5: 1.5, 6: -100.0}, True, 9)


async def test_what_is_not_known_is_named(client: Client) -> None:
    http = await client(saying("x"))
    body = {"samplers": ["dry"], "lora": [], "n_probs": 3}
    warnings = (await http.post(INFILL, json=body)).json()["evenhand"]["warnings"]
    assert warnings == [
        "field 'lora' is not known and was ignored",
        "field 'n_probs' is not known and was ignored",
        "sampler 'dry' is not known and was ignored",
    ]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"samplers": "q"}, "samplers must be letters"),
        ({"logit_bias": [["the", 1]]}, "logit_bias must be pairs"),
        ({"input_extra": [{"filename": "a"}]}, "input_extra.0.text must be given"),
        ({"n_predict": -3}, "n_predict must be"),
        ({"fim": "mps"}, "fim must be"),
        ({"model": "other"}, "model must be one of pocket"),
        ({"stages": [{"stage": "pine"}]}, "stage 'pine' must have"),
    ],
)
async def test_what_is_refused(client: Client, body: dict[str, Any], words: str) -> None:
    reply = await (await client()).post(INFILL, json=body)
    assert words in reply.json()["error"]["message"]
    assert reply.status_code in (400, 404)


async def test_mistrals_fields(client: Client) -> None:
    engine = saying("a b")
    http = await client(engine)
    body = {"model": "pocket", "prompt": "p", "suffix": "s", "max_tokens": 5, "min_tokens": 2}
    reply = (await http.post(FIM, json=body | {"random_seed": 7, "metadata": {"a": 1}})).json()
    assert (reply["object"], reply["id"][:4]) == ("chat.completion", "fim-")
    [choice] = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a b", "stop")
    assert reply["usage"]["completion_tokens"] == 2
    assert "warnings" not in reply["evenhand"]
    prompt, sampling = work_of(engine)
    assert prompt == FillPrompt("p", "s", room=5)
    assert (sampling.seed, sampling.min_tokens, sampling.temperature) == (7, 2, 0.0)


async def test_every_piece_of_a_stream_has_text_for_continue(client: Client) -> None:
    http = await client(saying("a b"))
    reply = await http.post(FIM, json={"prompt": "p", "suffix": "s", "stream": True})
    said = [each["choices"][0]["delta"]["content"] for each in events(reply)]
    assert "".join(said) == "a b"
    assert reply.text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"documents": ["a"]}, "documents cannot go with a text to fill in"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens must be at most max_tokens"),
        (
            {"min_tokens": 9, "response_format": {"type": "json_object"}},
            "min_tokens cannot go with response_format",
        ),
        ({"prompt": None}, "prompt must"),
    ],
)
async def test_what_fim_refuses(client: Client, more: dict[str, Any], words: str) -> None:
    reply = await (await client()).post(FIM, json={"prompt": "p", **more})
    assert reply.status_code == 400
    assert words in reply.json()["error"]["message"]


async def test_the_operators_order_holds_where_none_is_asked_for(client: Client) -> None:
    engine = saying("x")
    http = await client(engine, fim_order="spm")
    orders = []
    for path, body in (
        (INFILL, {}),
        (INFILL, {"fim": "psm"}),
        (FIM, {"prompt": "a"}),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}),
        ("/v1/completions", {"prompt": "a", "suffix": "b", "fim": "psm"}),
    ):
        await http.post(path, json=body)
        [prompt] = engine.works[-1].prompts
        assert isinstance(prompt, FillPrompt | TextPrompt)
        orders.append(prompt.order)
    assert orders == ["spm", "psm", "spm", "spm", "psm"]


class LeavingOut(Scripted):
    """A script whose context is short."""

    def _chunks(self, index: int, prompt: str, sampling: Sampling) -> list[Chunk]:
        *chunks, last = super()._chunks(index, prompt, sampling)
        notes = {LEFT_OUT: {"files": 2, "prefix_tokens": 31}}
        return [*chunks, Chunk(index, usage=last.usage, finish_reason="stop", notes=notes)]


@pytest.mark.parametrize("path", [INFILL, FIM])
async def test_what_is_left_out_is_told(client: Client, path: str) -> None:
    http = await client(LeavingOut([Answer("x")]))
    reply = (await http.post(path, json={"prompt": "a"})).json()
    assert reply["evenhand"]["warnings"] == [
        "the context had no room for 2 files, 31 prefix tokens, which were left out"
    ]
    assert reply.get("truncated", True)


@pytest.mark.parametrize("path", [INFILL, FIM, "/v1/completions"])
async def test_an_editor_is_answered_by_the_sequence_of_its_last_request(
    client: Client, path: str
) -> None:
    http = await client(saying("x", "attention"))
    text = " ".join(f"w{number}" for number in range(20))
    name = "input_prefix" if path == INFILL else "prompt"

    async def reused(**more: Any) -> int | None:
        reply = (await http.post(path, json={name: text, "suffix": "b", **more})).json()
        edit = reply["evenhand"]["notes"].get("edit")
        return None if edit is None else int(edit["reused"])

    assert [await reused(), await reused()] == [0, 20]
    assert await reused(user="somebody else") == 0
    assert await reused(deterministic=True) is None
    if path == INFILL:
        assert await reused(cache_prompt=False) is None
        assert await reused(id_slot=2) == 0


async def test_a_setting_switches_sequences_off(client: Client) -> None:
    http = await client(saying("x", "attention"), fim_sessions=0)
    reply = (await http.post(INFILL, json={"input_prefix": "a"})).json()
    assert reply["evenhand"]["notes"] == {}


async def test_two_keys_never_share(client: Client) -> None:
    http = await client(saying("x", "attention"), api_keys="one,two")
    assert (await http.post(INFILL, json={})).status_code == 401
    notes = []
    for key in ("one", "two", "one"):
        header = {"authorization": f"Bearer {key}"}
        reply = await http.post(INFILL, json={"input_prefix": "a b c"}, headers=header)
        notes.append(reply.json()["evenhand"]["notes"]["edit"]["reused"])
    assert notes == [0, 0, 3]


async def test_a_failure_in_a_stream_is_an_event(client: Client) -> None:
    http = await client(Scripted([]))
    reply = await http.post(INFILL, json={"stream": True})
    [said] = events(reply)
    assert "script must have an answer left" in said["error"]["message"]
