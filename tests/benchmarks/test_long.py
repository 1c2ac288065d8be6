"""What the benchmark of long texts measures is what it says."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks._kept import Kept
from benchmarks._loaded import Model
from benchmarks._long_chat import MOST, Chat, Frame, _seen, loops, worth
from benchmarks._long_loss import by_position
from benchmarks._long_recall import text
from benchmarks._long_texts import manual
from benchmarks._long_ways import TrueDistance, Way, losses
from kvedit.lm_infinite import LmInfiniteReading
from kvedit.plain import PlainReading
from pocket import WEIGHTS

IDS = tuple(range(100, 140))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(WEIGHTS, "float32")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def test_a_window_that_is_read_again_is_read_for_each_token(model: Model) -> None:
    found = by_position(model, Way("again", 16), IDS, 1)
    for place in (1, 16, 17, 25, 39):
        seen = IDS[max(0, place - 16) : place]
        assert found[place - 1] == pytest.approx(
            1000 * losses(model, PlainReading(), seen, IDS[place])[-1], abs=1
        )


def test_a_stride_gives_each_token_its_own_loss(model: Model) -> None:
    found = by_position(model, Way("again", 16), IDS, 8)
    assert len(found) == len(IDS) - 1
    last = losses(model, PlainReading(), IDS[32 - 16 : 32], IDS[32])  # 25 to 32 at once
    assert found[24:32] == [round(1000 * each) for each in last[-8:]]


def test_first_tokens_at_their_true_distance_are_plain_where_they_are_all(model: Model) -> None:
    plain = losses(model, PlainReading(), IDS, None)
    true = losses(model, TrueDistance(len(IDS), 8), IDS, None)
    assert true == pytest.approx(plain, abs=1e-4)
    capped = losses(model, LmInfiniteReading(len(IDS), 8, 8), IDS, None)
    assert capped != pytest.approx(plain, abs=1e-2)


def test_numbers_are_where_a_text_says(model: Model) -> None:
    told = text(model, 1200, 3)
    for key, value in told.values.items():
        end = len(told.ids) - told.distance[key]
        said = model.tokenizer.decode(told.ids[:end])
        assert said.endswith(f"code of the {key} is{value}.\n")


def test_the_manual_repeats_little_of_itself() -> None:
    lines = [line for text in manual() for line in text.splitlines() if len(line) > 40]
    assert sum(map(len, set(lines))) > 0.95 * sum(map(len, lines))
    assert sum(map(len, lines)) > 150_000


@pytest.mark.parametrize(
    ("reply", "said"),
    [([1, 5, 6, 5, 6, 5, 6], True), ([7, 7, 7], True), ([5, 6, 5, 6], False), ([], False),
     ([5, 6, 5, 6, 5, 6, 1], False)],
)  # fmt: skip
def test_a_reply_loops_if_its_end_comes_three_times(reply: list[int], said: bool) -> None:
    assert loops(reply) == said


@pytest.mark.parametrize("kind", ["again", "cut"])
def test_what_is_read_anew_leaves_room_for_a_reply(model: Model, kind: str) -> None:
    chat, way = Chat(Frame.of(model)), Way(kind, 256)
    for number in range(12):
        asked = chat.asked((500 + number,) * 20)
        seen = _seen(chat, way, asked)
        assert len(seen) <= way.window - MOST and seen[-20:] == list(asked)[-20:]
        if kind == "cut":
            assert tuple(seen[: len(chat.frame.opening)]) == chat.frame.opening
        chat.turns.append((asked, (600 + number,) * 15))


def test_what_a_reply_is_worth_is_counted_behind_the_first_window(model: Model) -> None:
    turns = [[[5] * 20, [6, 7, 8]], [[9] * 20, [10, 11, 12, 12, 12]], [[9] * 20, [6, 7, 8]]]
    ids = [token for turn in turns for part in turn for token in part]
    every = losses(model, PlainReading(), ids, None)
    expected = sum(every[42:47]) + sum(every[67:70])
    lost, tokens, looped, replies, *_ = worth(model, turns, 30)
    assert (tokens, replies, looped) == (8, 2, 2)  # one has a run, one was said before
    assert lost == pytest.approx(1000 * expected, abs=1)


def test_what_was_found_is_kept_and_a_torn_line_is_found_again(tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    assert Kept(file).of("one", lambda: [1]) == [1]
    with file.open("a") as torn:
        torn.write('{"key": "two", "fou')
    kept = Kept(file)
    assert kept.of("one", lambda: [2]) == [1] and kept.of("two", lambda: [3]) == [3]
    assert Kept(file).of("two", lambda: [4]) == [3]
