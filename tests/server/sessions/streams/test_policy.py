"""When to read and when to write."""

from server.sessions.streams.policy import Agreement, Tokens, Wait

WORDS = ["<end>", " the", " cat", "s", " dog", ".", ",", "\n"]
TOKENS = Tokens(WORDS.__getitem__, frozenset({0}))


def test_wait_k_allows_k_segments_and_one_more_a_word() -> None:
    policy = Wait(3)
    assert [policy.waits(TOKENS, 1, word=0, read=read) for read in (0, 2, 3)] == [True, True, False]
    assert [policy.waits(TOKENS, 3, word=2, read=read) for read in (4, 5)] == [True, False]


def test_all_waits_for_all() -> None:
    assert Wait(None).waits(TOKENS, 1, word=0, read=10_000)


def test_while_more_comes_an_end_is_no_reason_to_write() -> None:
    for token in (0, 5, 7):
        assert Wait(1).waits(TOKENS, token, word=0, read=9)
        assert not Wait(1, hold=False).waits(TOKENS, token, word=0, read=9)
    assert not Wait(1).waits(TOKENS, 6, word=0, read=9)  # a comma is no end


def test_what_two_guesses_agree_on_is_whole_words() -> None:
    agreed = Agreement().agreed
    assert agreed(TOKENS, [1, 2, 3, 4], [1, 2, 3, 1]) == [1, 2, 3]
    assert agreed(TOKENS, [1, 2], [1, 2, 3]) == [1]  # it might be "cats"
    assert agreed(TOKENS, [1, 2, 4], [1, 2, 6]) == [1, 2]
    assert agreed(TOKENS, [1, 2, 5, 4], [1, 2, 5, 4]) == [1, 2]  # before the sentence's end
    assert agreed(TOKENS, [], [1, 2]) == []
    assert Agreement(hold=False).agreed(TOKENS, [1, 5, 4], [1, 5, 4]) == [1, 5, 4]
