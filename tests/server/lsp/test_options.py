"""What an editor may send as settings."""

from __future__ import annotations

import pytest

from server.lsp.options import Options, changed


@pytest.mark.parametrize("given", [{"maxTokens": 9}, {"evenhand": {"maxTokens": 9}, "other": 1}])
def test_settings_come_bare_or_in_their_section(given: object) -> None:
    options, complaints = changed(Options(), given)
    assert options.max_tokens == 9 and complaints == []


@pytest.mark.parametrize("given", [None, 1, [], {"evenhand": None}, {"model": None, "url": ""}])
def test_what_is_not_given_stays(given: object) -> None:
    options = Options(url="http://host:1", model="m")
    assert changed(options, given) == (options, [])


def test_a_wrong_value_is_told_and_the_others_hold() -> None:
    options, complaints = changed(Options(), {"url": "ftp://x", "maxTokens": 5, "multiline": "no"})
    assert (options.url, options.max_tokens, options.multiline) == (Options().url, 5, False)
    (sentence,) = complaints
    assert sentence.startswith("setting evenhand.url must be usable (")
    assert sentence.endswith("), got 'ftp://x'; it is as it was")


def test_a_key_is_never_told() -> None:
    _, (sentence,) = changed(Options(), {"apiKey": {"secret": 1}})
    assert "secret" not in sentence
    options, _ = changed(Options(), {"apiKey": "sesame"})
    assert "sesame" not in repr(options)
    assert options.api_key is not None and options.api_key.get_secret_value() == "sesame"
    assert changed(options, {"maxTokens": 5})[0].api_key == options.api_key


@pytest.mark.parametrize("url", ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"])
def test_an_address_with_or_without_v1(url: str) -> None:
    assert Options(url=url).base == "http://h:1"
