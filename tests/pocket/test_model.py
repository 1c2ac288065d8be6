"""The committed weights: small, loadable, and able to do the easy half of their card."""

from random import Random

import pytest

from pocket import WEIGHTS, data
from pocket.evaluate import (
    Pocket,
    canonical,
    chosen,
    contests,
    judging_figures,
    judging_prompt,
    measure_judging,
    moved,
    reading_prompt,
)


@pytest.fixture(scope="module")
def pocket() -> Pocket:
    return Pocket()


def test_it_is_small_and_what_the_card_says(pocket: Pocket) -> None:
    assert (WEIGHTS / "model.safetensors").stat().st_size < 12_000_000
    assert 1_000_000 <= pocket.model.num_parameters() <= 10_000_000
    config = pocket.model.config
    assert config.model_type == "llama"
    assert config.num_key_value_heads < config.num_attention_heads
    assert config.vocab_size == len(pocket.tokenizer)


def test_it_answers_easy_questions(pocket: Pocket) -> None:
    random = Random("easy")
    problems = [data.retrieval(random, 3, random.randrange(3)) for _ in range(40)]
    replies = pocket.plain([reading_prompt(each.documents, each.question) for each in problems])
    right = sum(reply.text == each.answer for reply, each in zip(replies, problems, strict=True))
    assert right > 0.75 * len(problems)


def test_pine_gives_the_same_logits_wherever_the_document_stands(pocket: Pocket) -> None:
    random = Random("moved")
    problem = data.retrieval(random, 5, 2)
    prompts = [reading_prompt(moved(problem, place), problem.question) for place in range(5)]
    replies = pocket.pine(prompts)
    assert len({reply.text for reply in replies}) == 1
    assert all((reply.logits == replies[0].logits).all() for reply in replies)


def test_a_prompt_is_the_text_of_the_chat_template(pocket: Pocket) -> None:
    contest = data.contest(Random(0), 3, 1.0, tie=0.0)
    prompt = judging_prompt(contest, (0, 1, 2))
    asked = data.judge_prompt(contest.question, contest.reference, contest.candidates)
    text = pocket.tokenizer.apply_chat_template(
        [{"role": "user", "content": asked}], tokenize=False, add_generation_prompt=True
    )
    assert prompt.text == text
    parts = (prompt.prefix, *prompt.documents, prompt.suffix)
    assert [token for part in parts for token in pocket.encode(part)] == pocket.encode(text)


def test_it_judges_with_a_bias_for_the_first_slot(pocket: Pocket) -> None:
    figures = measure_judging(pocket, 60, with_pine=False)
    assert figures["accuracy, winner second"] > 0.75
    assert figures["accuracy, winner first"] > figures["accuracy, winner second"]
    assert figures["flips"] > 0.03
    assert figures["slot bias"] > 0.5


def test_a_judge_that_always_takes_the_first_slot_is_seen() -> None:
    decided = contests(100, 2, tie=0.0)
    picks = [[0] * 100, [1] * 100]  # the first slot holds candidate 0, then candidate 1
    figures = judging_figures(decided, picks, [[2.0] * 100, [2.0] * 100], ["A"] * 200)
    assert figures["first slot"] == 1.0
    assert figures["flips"] == 1.0
    assert figures["accuracy"] == 0.5
    assert (figures["accuracy, winner first"], figures["accuracy, winner second"]) == (1.0, 0.0)
    assert figures["slot bias"] == 2.0


def test_a_judge_that_is_always_right_is_seen() -> None:
    decided = contests(100, 2, tie=0.0)
    winners = [each.winner for each in decided]
    figures = judging_figures(decided, [winners, winners], [[0.0] * 100] * 2, ["A", "B"] * 100)
    assert figures["accuracy"] == 1.0
    assert figures["flips"] == 0.0
    assert figures["first slot"] == 0.5


def test_letters_name_candidates_in_the_order_shown(pocket: Pocket) -> None:
    contest = data.Contest("q", "", ("pear", "apple"), (True, False))
    order = canonical(contest)
    assert order == (1, 0)
    (reply,) = pocket.plain([judging_prompt(contest, order)])
    letters = {"A": 1, "B": 0}
    assert chosen(reply, order) == letters.get(reply.text)
