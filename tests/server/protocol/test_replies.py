"""From chunks to choices: logprobs in both shapes, usage, notes, events."""

import json
from dataclasses import replace

import pytest

from server.chunk import Chunk, Scored, Usage
from server.engines.base import ModelInfo
from server.protocol import sse
from server.protocol.logprobs import LOWEST
from server.protocol.replies import Tally, fingerprint, merged
from server.protocol.writers import ChatWriter, CompletionWriter


def scored(token: int, text: str, logprob: float | None, *top: Scored, data: bytes = b"") -> Scored:
    return Scored(token, text, logprob, data or text.encode(), top)


def test_a_prompt_is_counted_once_however_its_choices_report_it() -> None:
    for second in (Usage(0, 3), Usage(7, 3)):
        tally = Tally(prompts=2, n=2)
        usages = [Usage(7, 2, 1), second, Usage(5, 1), Usage(0, 1)]
        for index, usage in enumerate(usages):
            assert not tally.complete
            tally.add(Chunk(index, finish_reason="stop", usage=usage))
        assert tally.complete
        assert tally.usage() == {
            "prompt_tokens": 12,
            "completion_tokens": 7,
            "total_tokens": 19,
            "prompt_tokens_details": {"cached_tokens": 1},
        }


def test_usage_grows_with_the_tokens_until_the_engine_says() -> None:
    tally = Tally(prompts=1, n=1)
    tally.add(Chunk(0, "a", (scored(1, "a", None), scored(2, "b", None))))
    assert tally.usage()["completion_tokens"] == 2
    tally.add(Chunk(0, finish_reason="stop", usage=Usage(4, 3)))
    assert tally.usage()["total_tokens"] == 7


def test_notes_of_one_prompt_stand_alone_and_of_several_in_a_list() -> None:
    one, two = Tally(1, 2), Tally(2, 1)
    for tally in (one, two):
        tally.add(Chunk(0, finish_reason="stop", notes={"pine": "first"}))
        tally.add(Chunk(1, finish_reason="stop", notes={"pine": "second"}))
    assert one.notes() == {"pine": "first"}
    assert two.notes() == {"pine": ["first", "second"]}


def test_chunks_of_a_choice_become_one() -> None:
    chunks = [
        Chunk(1, "x"),
        Chunk(0, "a", (scored(1, "a", None),)),
        Chunk(0, "b", (scored(2, "b", None),), finish_reason="stop", stop_reason="!"),
        Chunk(1, "y", finish_reason="length"),
    ]
    first, second = merged(chunks)
    assert (first.text, first.finish_reason, first.stop_reason) == ("ab", "stop", "!")
    assert [token.id for token in first.tokens] == [1, 2]
    assert (second.text, second.finish_reason) == ("xy", "length")


def test_legacy_logprobs_are_four_lists_with_the_prompt_first() -> None:
    prompt = (scored(0, "<s>", None), scored(1, "é", -0.1, scored(2, "x", float("-inf"))))
    chunk = Chunk(
        0,
        " b",
        (scored(3, " b", -0.3, scored(4, " c", -0.2), scored(3, " b", -0.3)),),
        prompt_tokens=prompt,
        prompt_text="é",
        finish_reason="length",
    )
    choice = CompletionWriter(scored=True).whole(chunk)
    assert choice["text"] == "é b"
    assert choice["logprobs"] == {
        "tokens": ["<s>", "é", " b"],
        "token_logprobs": [None, -0.1, -0.3],
        "top_logprobs": [None, {"x": LOWEST, "é": -0.1}, {" c": -0.2, " b": -0.3}],
        "text_offset": [0, 0, 1],
    }


def test_the_chosen_tokens_logprob_wins_where_two_ids_have_one_text() -> None:
    token = scored(3, "�", -2.0, scored(9, "�", -0.5))
    chunk = Chunk(0, "", (token,), finish_reason="stop")
    (top,) = CompletionWriter(scored=True).whole(chunk)["logprobs"]["top_logprobs"]
    assert top == {"�": -2.0}
    (top,) = CompletionWriter(scored=True, as_ids=True).whole(chunk)["logprobs"]["top_logprobs"]
    assert top == {"token_id:3": -2.0, "token_id:9": -0.5}


def test_text_offsets_go_on_from_chunk_to_chunk_and_count_characters() -> None:
    writer = CompletionWriter(scored=True)
    halves = (scored(1, "�", -1.0, data=b"\xc3"), scored(2, "�", -1.0, data=b"\xa9"))
    first = writer.piece(Chunk(0, "aé", (scored(0, "a", -1.0), *halves)))
    second = writer.piece(Chunk(0, "b", (scored(3, "b", -1.0),)))
    assert first is not None
    assert second is not None
    assert first["logprobs"]["text_offset"] == [0, 1, 1]
    assert second["logprobs"]["text_offset"] == [2]


def test_chat_logprobs_carry_bytes() -> None:
    token = scored(1, "é", float("-inf"), scored(2, "x", -0.5))
    choice = ChatWriter(scored=True).whole(Chunk(0, "é", (token,), finish_reason="stop"))
    assert choice["logprobs"]["content"] == [
        {
            "token": "é",
            "logprob": LOWEST,
            "bytes": [195, 169],
            "top_logprobs": [{"token": "x", "logprob": -0.5, "bytes": [120]}],
        }
    ]
    assert choice["message"] == {"role": "assistant", "content": "é", "refusal": None}


def test_nothing_is_said_while_text_is_held_back() -> None:
    held = Chunk(0, "", (scored(1, "a", None),))
    assert CompletionWriter(scored=False).piece(held) is None
    assert ChatWriter(scored=False).piece(held) is None
    assert ChatWriter(scored=True).piece(Chunk(0, "", (scored(1, "a", -1.0),))) is not None


def test_an_event_is_one_line_for_every_reader_of_lines() -> None:
    value = {"text": "a\u2028b\x85c\x0cd\r\ne\x1cf"}
    sent = sse.event(value)
    assert len(sent.decode().splitlines()) == 2
    assert json.loads(sent.removeprefix(b"data: ")) == value


INFO = ModelInfo(
    id="m",
    root="folder",
    max_model_len=9,
    abilities=frozenset({"text"}),
    weights="w",
    dtype="float32",
    device="cpu",
    executor="torch",
    software=("a 1",),
)


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "others"},
        {"dtype": "float16"},
        {"device": "cuda"},
        {"executor": "loops"},
        {"software": ("a 2",)},
        {"max_model_len": 8},
        {"abilities": frozenset({"text", "logprobs"})},
    ],
)
def test_a_fingerprint_changes_with_all_that_decides_an_answer(change: dict[str, object]) -> None:
    assert fingerprint(replace(INFO, **change)) != fingerprint(INFO)  # type: ignore[arg-type]


def test_a_fingerprint_stays_whatever_a_model_is_called() -> None:
    again = replace(INFO, id="n", root="elsewhere", created=2, refusals={"cache": "not built"})
    assert fingerprint(again) == fingerprint(INFO)
