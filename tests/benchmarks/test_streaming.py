"""What the benchmark of streams measures is what it says."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sacrebleu.metrics.chrf import CHRF
from torch import Tensor

from benchmarks._loaded import Model
from benchmarks._sentences import drawn
from benchmarks._stream_paths import Anew, Asked, Grouped, words
from benchmarks._stream_policies import Agreement, Wait, tokens_of
from benchmarks._stream_scores import chrf, counts, more
from pocket import WEIGHTS
from server.sessions.streams.latency import lagging
from server.sessions.streams.policy import Tokens

TEXTS = {0: "<end>", 1: " one", 2: " two", 3: "ty", 4: ".", 5: " three"}
TOKENS = Tokens(TEXTS.__getitem__, frozenset({0}))


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.load(WEIGHTS, "float32")


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


class Scripted:
    """A path that says the same whatever it reads, and writes down what is asked of it."""

    def __init__(self, *says: int) -> None:
        self.says, self.target, self.log = says, list[int](), list[str]()
        self.fed = self.seen = 0

    def read(self, source: Sequence[int]) -> Tensor:
        self.seen += len(source)
        self.log.append(f"R{len(source)}")
        return self._logits()

    def write(self, token: int) -> Tensor:
        self.target.append(token)
        self.log.append("W")
        return self._logits()

    def retract(self, count: int) -> None:
        del self.target[len(self.target) - count :]

    def _logits(self) -> Tensor:
        return torch.nn.functional.one_hot(torch.tensor(self.says[len(self.target)]), 6).float()


def asked(count: int) -> Asked:
    return Asked((), tuple((word,) for word in range(count)), ())


def test_a_word_is_written_once_its_words_are_read_and_none_between_its_tokens() -> None:
    path = Scripted(1, 2, 3, 5, 4, 0)
    written = Wait(2).run(path, asked(4), TOKENS)
    assert written.tokens == [1, 2, 3, 5, 4] and written.read == [2, 3, 3, 4, 4]
    assert path.log == ["R2", "W", "R1", "W", "W", "R1", "W", "W"]


def test_an_end_before_the_source_s_is_held_or_not() -> None:
    assert Wait(2).run(Scripted(1, 4, 0), asked(4), TOKENS).read == [2, 4]
    assert Wait(2, hold=False).run(Scripted(1, 4, 0), asked(4), TOKENS).read == [2, 2]
    path = Scripted(1, 0, 0)
    assert Wait(2, hold=False).run(path, asked(4), TOKENS).tokens == [1] and path.seen == 3


def test_all_reads_all_at_once() -> None:
    path = Scripted(1, 2, 0)
    assert Wait(None).run(path, asked(5), TOKENS).read == [5, 5] and path.log[0] == "R5"


def test_agreement_writes_whole_words_that_came_twice_and_no_end_before_the_source_s() -> None:
    written = Agreement(1).run(Scripted(1, 2, 3, 4, 0), asked(3), TOKENS)
    assert written.tokens == [1, 2, 3, 4] and written.read == [2, 2, 2, 3]


def test_all_anew_is_what_the_plain_model_says_and_reads_all_again(model: Model) -> None:
    sentence = drawn(1, 0)[0]
    one, tokens = Asked.of(model, sentence), tokens_of(model)
    at_once, by_word = Anew(model, one), Anew(model, one)
    whole = at_once.read([token for word in one.words for token in word])
    logits = [by_word.read(word) for word in one.words]
    assert torch.allclose(whole, logits[-1], atol=1e-4)
    assert by_word.fed == len(one.words) * at_once.fed
    path = Grouped(model, one)
    Wait(1).run(path, one, tokens)
    assert path.seen == at_once.seen  # no source token is read twice
    assert path.fed <= 2 * (len(one.tail) + len(one.words)) + 96


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text("abcé.ß", min_size=1, max_size=9), min_size=1, max_size=9))
def test_words_are_all_of_a_text_s_tokens(model: Model, parts: list[str]) -> None:
    text = " ".join(parts)
    found = words(model, text)
    assert len(found) == len(parts)
    assert tuple(token for word in found for token in word) == model.ids(text)


def test_lagging_is_as_the_papers_count_it() -> None:
    assert lagging([3, 4, 5, 6, 6, 6], 6) == 3.0  # wait-3 of equal lengths
    assert lagging([6, 6, 6], 6) == 6.0  # all at once
    assert lagging([3, 4, 5, 6], 6, 6) == pytest.approx(3.0)  # LAAL: as long as the reference
    assert lagging([3, 4, 5, 6], 6) == pytest.approx((3 + 2.5 + 2 + 1.5) / 4)
    assert lagging([], 6) == 6.0


def test_chrf_is_sacrebleu_s_of_the_whole() -> None:
    said, right = ["the cat sat", "a dog ran off", "no"], ["the cat sits", "a dog ran away", "yes"]
    found = counts(said, right)
    value, low, high = chrf(found)
    assert value == pytest.approx(CHRF().corpus_score(said, [right]).score)
    assert low <= value <= high
    assert more(found, found) == (0.0, 0.0, 0.0)
    assert more(counts(right, right), found)[0] == pytest.approx(100 - value)
