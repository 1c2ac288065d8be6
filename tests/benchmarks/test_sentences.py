"""The sentences that streams are measured on."""

from collections import Counter

from benchmarks._sentences import LANGUAGES, drawn, sentences


def test_there_are_seventy_sentences_of_each_language_and_none_twice() -> None:
    every = sentences()
    assert Counter(each.language for each in every) == dict.fromkeys(LANGUAGES, 70)
    assert len({each.source for each in every}) == len(every)


def test_each_has_8_to_25_words_and_ends() -> None:
    for each in sentences():
        words = [word for word in each.source.split() if any(map(str.isalnum, word))]
        assert 8 <= len(words) <= 25, each
        assert each.source[-1] in ".!?" and each.reference[-1] in ".!?", each


def test_more_are_the_same_and_others_and_languages_take_turns() -> None:
    few, many = drawn(10, 3), drawn(40, 3)
    assert many[:10] == few != drawn(10, 4)
    assert [each.language for each in few[:4]] == ["fr", "de", "es", "fr"]
