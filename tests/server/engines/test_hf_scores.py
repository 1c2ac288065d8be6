"""Logprobs of answers and prompts, and of the judge's labels."""

import math

import pytest
import torch
from asking import Ask, usage
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from server.engines.hf.scores import Scorer, log_probabilities
from server.prompt import TokenPrompt
from server.text.vocabulary import Vocabulary


def test_the_chosen_value_is_its_entry_among_the_alternatives(ask: Ask) -> None:
    scored = [
        token for chunk in ask("The quick", logprobs=3, max_tokens=20) for token in chunk.tokens
    ]
    assert len(scored) == 20
    for token in scored:
        assert len(token.top) == 3
        assert token.top[0].logprob == token.logprob  # greedy: the best, to the last bit
        values = [other.logprob for other in token.top if other.logprob is not None]
        assert [other.logprob for other in token.top] == sorted(values, reverse=True)


def test_no_logprobs_unless_asked_and_no_alternatives_for_zero(ask: Ask) -> None:
    plain = [token for chunk in ask("The quick") for token in chunk.tokens]
    chosen = [token for chunk in ask("The quick", logprobs=0) for token in chunk.tokens]
    assert {token.logprob for token in plain} == {None}
    assert all(token.logprob is not None and token.top == () for token in chosen)
    assert [token.id for token in plain] == [token.id for token in chosen]


def test_logprobs_are_of_the_raw_logits(ask: Ask) -> None:
    raw = ask("The quick", logprobs=2, max_tokens=1)[0].tokens[0]
    bent = ask(
        "The quick", logprobs=2, max_tokens=1, temperature=0.1, seed=1, logit_bias={raw.id: -50.0}
    )
    assert bent[0].tokens[0].top == raw.top


def test_echo_scores_the_prompt(
    ask: Ask, stock: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = tokenizer.encode("The quick brown fox")
    chunk = ask("The quick brown fox", echo=True, logprobs=1, max_tokens=1)[0]
    with torch.inference_mode():
        logprobs = log_probabilities(stock(torch.tensor([ids])).logits[0])
    assert chunk.prompt_text == "The quick brown fox"
    assert [token.id for token in chunk.prompt_tokens] == ids
    assert chunk.prompt_tokens[0].logprob is None
    for place, token in enumerate(chunk.prompt_tokens[1:]):
        assert token.logprob == pytest.approx(float(logprobs[place, token.id]), abs=1e-5)
        best = token.top[0]
        assert best.id == int(logprobs[place].argmax())
        if best.id == token.id:
            assert best.logprob == token.logprob
    assert len(chunk.tokens) == 1


def test_echo_finds_the_prompt_token_bit_equal_in_its_alternatives(ask: Ask) -> None:
    chunk = ask("The quick brown fox", echo=True, logprobs=400, max_tokens=0)[0]
    for token in chunk.prompt_tokens[1:]:
        assert {other.id: other.logprob for other in token.top}[token.id] == token.logprob


def test_echo_without_new_tokens(ask: Ask, tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tuple(tokenizer.encode("The quick", add_special_tokens=False))
    chunks = ask(TokenPrompt(ids), echo=True, logprobs=1, max_tokens=0)
    assert len(chunks) == 1
    assert (chunks[0].finish_reason, chunks[0].tokens, chunks[0].text) == ("length", (), "")
    assert chunks[0].prompt_text == "The quick"
    assert usage(chunks).prompt_tokens == len(ids)  # nothing added to token ids


def test_long_prompts_are_scored_in_blocks_alike(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(Vocabulary(tokenizer, len(tokenizer)))
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, len(tokenizer), generator=generator)
    whole = scorer.rows(logits, list(range(20)), 2)
    monkeypatch.setattr("server.engines.hf.scores.ROWS", 7)
    assert scorer.rows(logits, list(range(20)), 2) == whole


def test_labels_sum_all_their_forms(ask: Ask, tokenizer: PreTrainedTokenizerFast) -> None:
    first = ask("yes or no?", labels=("A", "B"), logprobs=400, max_tokens=2)
    everything = {other.id: other.logprob or 0.0 for other in first[0].tokens[0].top}
    labels = first[0].labels or {}
    assert set(labels) == {"A", "B"}
    for label, value in labels.items():
        forms = [i for i in everything if str(tokenizer.decode([i])).strip() == label]
        assert len(forms) > 1  # bare, and with a space before it
        total = sum(math.exp(everything[form]) for form in forms)
        assert math.exp(value) == pytest.approx(total, rel=1e-5)
    assert all(chunk.labels is None for chunk in first[1:])
