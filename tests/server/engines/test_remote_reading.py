"""What is read from another server's answers; labels from the few tokens that it reports."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from server.chunk import Chunk, Scored, Usage
from server.engines.remote.reading import Reader, weights
from server.errors import EngineError, EvenhandError, PlanError
from server.job import Sampling
from server.protocol.replies import merged

LABELS = ("A", "B", "T")
TEXTS = [*"ABTxyz", " A", "A\n", "\tB", " T", "AB", "", " "]


def reported(chances: dict[str, float], most: int) -> Scored:
    """Return the first token as a server reports it: the likeliest ones, in float32."""
    ranked = sorted(chances.items(), key=lambda each: -each[1])[:most]
    top = tuple(Scored(-1, text, math.log(chance)) for text, chance in ranked)
    return Scored(-1, top[0].text, top[0].logprob, top=top)


@st.composite
def distributions(draw: st.DrawFn) -> dict[str, float]:
    """Draw the probabilities of all tokens."""
    weights = draw(st.lists(st.floats(1e-9, 1.0), min_size=len(TEXTS), max_size=len(TEXTS)))
    return {text: weight / math.fsum(weights) for text, weight in zip(TEXTS, weights, strict=True)}


@given(distributions(), st.integers(1, len(TEXTS)))
def test_labels_are_off_by_no_more_than_what_is_not_known(
    chances: dict[str, float], most: int
) -> None:
    token = reported(chances, most)
    found = weights(token, LABELS)
    seen = {each.text for each in token.top}
    hidden = math.fsum(chance for text, chance in chances.items() if text not in seen)
    least = min(each.logprob or 0.0 for each in token.top)
    for label, logprob in found.items():
        forms = [text for text in chances if text.strip() == label]
        true = math.fsum(chances[text] for text in forms)
        if seen & set(forms):
            assert true - hidden - 1e-9 <= math.exp(logprob) <= true + 1e-9
        elif logprob > -math.inf:  # another label was seen
            assert logprob < least
            assert max(chances[text] for text in forms) <= math.exp(logprob) + 1e-9
            assert math.exp(logprob) <= hidden + 1.1e-6
        else:
            assert not any(text.strip() in LABELS for text in seen)
    best = max(found, key=lambda label: found[label])
    assert found[best] == -math.inf or any(text.strip() == best for text in seen)


def test_all_forms_of_a_label_count_and_a_hidden_one_has_the_most_it_can() -> None:
    token = reported({"A": 0.5, " A": 0.25, "B": 0.125, "x": 0.0625, "T": 0.0625}, 4)
    found = weights(token, LABELS)
    assert found["A"] == pytest.approx(math.log(0.75))
    assert found["B"] == math.log(0.125)
    assert found["T"] == pytest.approx(math.log(0.0625))
    assert found["T"] < math.log(0.0625)


def test_forms_that_a_server_spells_alike_both_count() -> None:
    both = (Scored(-1, "A", math.log(0.5)), Scored(-1, "A", math.log(0.25)))
    found = weights(Scored(-1, "A", math.log(0.5), top=both), LABELS)
    assert found["A"] == pytest.approx(math.log(0.75))


def test_one_token_alone_leaves_the_others_the_rest() -> None:
    found = weights(reported({"A": 0.9, "B": 0.1}, 1), LABELS)
    assert found["B"] == pytest.approx(math.log(0.1), abs=1e-4)
    certain = weights(Scored(-1, "A", 0.0), LABELS)
    assert certain["B"] == pytest.approx(math.log(1e-6))


def test_of_labels_that_are_not_there_nothing_is_known() -> None:
    assert set(weights(reported({"x": 0.6, "y": 0.4}, 2), LABELS).values()) == {-math.inf}


def event(text: str = "", index: int = 0, finish: str | None = None, **more: Any) -> dict[str, Any]:
    choice = {"index": index, "delta": {"content": text}, "finish_reason": finish, **more}
    return {"choices": [choice]}


USED = {"prompt_tokens": 7, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}


def whole(chunks: list[Chunk]) -> list[tuple[Any, ...]]:
    """Return what the choices say in the end."""
    return [(one.index, one.text, one.tokens, one.finish_reason) for one in merged(chunks)]


@given(
    st.lists(st.text(max_size=12), min_size=1, max_size=3),
    st.data(),
)
def test_a_stream_says_what_the_whole_answer_says_however_it_is_cut(
    texts: list[str], data: st.DataObject
) -> None:
    sampling = Sampling(n=len(texts))
    entire = [
        {"index": index, "message": {"content": text}, "finish_reason": "stop"}
        for index, text in enumerate(texts)
    ]
    reader = Reader(4, sampling)
    asked = reader.read({"choices": entire, "usage": USED}) + reader.end()

    pieces: list[list[dict[str, Any]]] = []
    for index, text in enumerate(texts):
        cuts = sorted(data.draw(st.sets(st.integers(0, len(text)))) | {0, len(text)})
        said = [event(text[start:end], index) for start, end in pairwise(cuts)]
        pieces.append([*said, event(index=index, finish="stop")])
    turns = [index for index, said in enumerate(pieces) for _ in said]
    mixed = [pieces[index].pop(0) for index in data.draw(st.permutations(turns))]
    reader = Reader(4, sampling)
    events = [*mixed, {"choices": [], "usage": USED}]
    streamed = [chunk for each in events for chunk in reader.read(each)] + reader.end()

    assert whole(streamed) == whole(asked)
    assert [one[0] for one in whole(asked)] == [4 + index for index in range(len(texts))]
    for chunks in (asked, streamed):
        used = [chunk.usage for chunk in chunks if chunk.finish_reason and chunk.usage]
        assert sum(used, Usage()) == Usage(7, 5, 2)
        assert all(chunk.usage is None for chunk in chunks if not chunk.finish_reason)


def scored(token: str, logprob: float, **top: float) -> dict[str, Any]:
    others = [{"token": name, "logprob": value} for name, value in top.items()]
    return {"token": token, "logprob": logprob, "bytes": [*token.encode()], "top_logprobs": others}


def test_labels_come_with_the_first_token_and_only_what_was_asked_for_is_told() -> None:
    content = [scored("A", -0.1, A=-0.1, B=-2.5, x=-4.0), scored("B", -0.1, B=-0.1, A=-3.0)]
    answer = event("AB", finish="length", logprobs={"content": content})
    (chunk,) = Reader(0, Sampling(labels=LABELS)).read(answer)
    assert chunk.labels is not None
    assert (chunk.labels["A"], chunk.labels["B"]) == (-0.1, -2.5)
    assert chunk.labels["T"] < -4.0
    assert [(token.text, token.logprob, token.top) for token in chunk.tokens] == [
        ("A", None, ()),
        ("B", None, ()),
    ]
    (chunk,) = Reader(0, Sampling(logprobs=1)).read(answer)
    assert chunk.labels is None
    assert [len(token.top) for token in chunk.tokens] == [1, 1]


def test_an_echo_is_cut_where_the_prompt_ends() -> None:
    logprobs = {
        "tokens": ["<s>", "Ro", "me", " is"],
        "token_logprobs": [None, -1.0, -2.0, -3.0],
        "top_logprobs": [None, {"Ro": -1.0}, {"me": -2.0}, {"or": -0.5, " is": -3.0}],
        "text_offset": [0, 0, 2, 4],
    }
    choice = {"index": 0, "text": "Rome is", "logprobs": logprobs, "finish_reason": "length"}
    usage = {"prompt_tokens": 3, "completion_tokens": 1}
    reader = Reader(0, Sampling(echo=True, logprobs=2))
    (chunk,) = reader.read({"choices": [choice], "usage": usage})
    assert (chunk.prompt_text, chunk.text) == ("Rome", " is")
    assert [token.text for token in chunk.prompt_tokens] == ["<s>", "Ro", "me"]
    assert [(token.text, token.logprob) for token in chunk.tokens] == [(" is", -3.0)]
    assert [other.text for other in chunk.tokens[0].top] == ["or", " is"]


def test_how_an_answer_ends() -> None:
    reader = Reader(0, Sampling(n=2))
    reader.read(event(index=0, finish="eos_token", stop_reason=5))
    with pytest.raises(EngineError, match="must finish 2 choices, got 1") as caught:
        reader.end()
    assert (caught.value.status, caught.value.retry_after) == (502, 1)
    reader.read(event(index=1, finish="max_tokens"))
    assert [(end.finish_reason, end.stop_reason) for end in reader.end()] == [
        ("stop", 5),
        ("length", None),
    ]


@pytest.mark.parametrize(
    ("sent", "kind", "said"),
    [
        (event(finish="content_filter"), PlanError, "must pass the remote server's content filter"),
        (event(finish="tool_calls"), EngineError, "got an answer finished by 'tool_calls'"),
        (event(index=1), EngineError, "got choice number 1 of 1"),
        (event(index=-1), EngineError, "got choice number -1 of 1"),
    ],
)
def test_an_end_that_is_none(sent: dict[str, Any], kind: type[EvenhandError], said: str) -> None:
    with pytest.raises(kind, match=said):
        Reader(0, Sampling()).read(sent)


@pytest.mark.parametrize("strange", [math.nan, 1e6, math.inf])
def test_a_logarithm_that_is_none(strange: float) -> None:
    answer = event("A", logprobs={"content": [scored("A", strange)]})
    with pytest.raises(ValidationError):
        Reader(0, Sampling(labels=LABELS)).read(answer)


def test_a_refusal_is_what_the_model_says() -> None:
    (chunk,) = Reader(0, Sampling()).read(
        {"choices": [{"message": {"content": None, "refusal": "No."}}]}
    )
    assert chunk.text == "No."
