"""Seeds, penalties and biases."""

from typing import Any

import pytest
import torch
from asking import Ask, tokens
from transformers import TopKLogitsWarper, TopPLogitsWarper

from server.engines.hf.sampling import LogitBias, Sampler, UsePenalty, processors
from server.job import Sampling


def test_a_seed_gives_the_same_answer_and_another_another(ask: Ask) -> None:
    runs = [tokens(ask("The", temperature=1.0, seed=seed)) for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_choices_of_one_seed_differ_and_repeat(ask: Ask) -> None:
    first, second = (ask("The", temperature=1.0, seed=1, n=3) for _ in range(2))
    answers = [tuple(tokens(first, index)) for index in range(3)]
    assert len(set(answers)) == 3
    assert answers == [tuple(tokens(second, index)) for index in range(3)]


def test_without_a_seed_answers_differ_and_leave_the_global_generator_alone(ask: Ask) -> None:
    state = torch.random.get_rng_state()
    answers = {tuple(tokens(ask("The", temperature=1.0))) for _ in range(4)}
    assert len(answers) > 1
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64 - 1])
def test_any_64_bit_seed_will_do(ask: Ask, seed: int) -> None:
    assert ask("The", temperature=1.0, seed=seed, n=2)


def test_greedy_never_samples(ask: Ask) -> None:
    assert tokens(ask("The", seed=1)) == tokens(ask("The", seed=2))


@pytest.mark.parametrize("cold", [1e-38, 1e-6])
def test_a_temperature_that_no_logit_can_be_divided_by_is_greedy(ask: Ask, cold: float) -> None:
    assert tokens(ask("The", temperature=cold, seed=1)) == tokens(ask("The"))


def test_use_penalty_counts_generated_tokens_alone() -> None:
    ids = torch.tensor([[3, 3, 1, 2, 2, 4]])  # the first three are the prompt
    scores = torch.zeros(1, 6)
    out = UsePenalty(frequency=0.5, presence=0.25, prompt=3)(ids, scores)
    assert out.tolist() == [[0.0, 0.0, -1.25, 0.0, -0.75, 0.0]]
    assert scores.abs().max() == 0  # the raw logits stay as they were


def test_frequency_penalty_reaches_the_answer(ask: Ask) -> None:
    stuck: dict[str, Any] = {"logit_bias": {70: 30.0}, "max_tokens": 8}
    assert set(tokens(ask("The", **stuck))) == {70}
    assert len(set(tokens(ask("The", frequency_penalty=2.0, presence_penalty=40.0, **stuck)))) > 4


def test_bias_adds_to_the_logits() -> None:
    out = LogitBias({2: 5.0, 0: -100.0}, 4, torch.device("cpu"))(
        torch.zeros(1, 0), torch.ones(1, 4)
    )
    assert out.tolist() == [[-99.0, 1.0, 6.0, 1.0]]


def test_the_chain_has_what_was_asked_for_and_no_more() -> None:
    assert processors(Sampling(), 0, 9, torch.device("cpu")) == []
    assert processors(Sampling(temperature=0, top_p=0.1), 0, 9, torch.device("cpu")) == []
    chain = processors(Sampling(top_p=0.5, top_k=3), 0, 9, torch.device("cpu"))
    assert [type(each) for each in chain] == [TopKLogitsWarper, TopPLogitsWarper]


def test_a_sampler_without_processors_keeps_no_ids() -> None:
    like = torch.zeros(1, 4)
    sampler = Sampler(Sampling(temperature=0), choice=0, ids=(1, 2), room=3, like=like)
    assert sampler.pick(torch.tensor([[0.0, 2.0, 1.0, 0.0]])).tolist() == [[1]]
    assert not hasattr(sampler, "_ids")
