"""The second phase: its initial values judge before any training, and what reads stays as it is."""

from random import Random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaForCausalLM

from pocket import WEIGHTS, data
from pocket.incline import Heads, mark, probe
from pocket.teach import Lessons, contests, teach
from pocket.tokenizer import build

SHORT = Lessons(steps=2, warmup=1, tokens=512, reading_tokens=512, examples=40)


@given(st.integers(0, 10**6), st.integers(2, 5), st.floats(0, 1))
def test_a_facts_contest_is_decided_by_its_text(seed: int, candidates: int, hard: float) -> None:
    contest = data.facts_contest(Random(seed), candidates, 0.5, tie=0.2, hard=hard)
    for text, right in zip(contest.candidates, contest.right, strict=True):
        assert (text in contest.question) == right


def test_wrong_answers_are_somebody_elses_facts_when_hard() -> None:
    random = Random(0)
    for hard in (0.0, 1.0):
        for _ in range(100):
            contest = data.facts_contest(random, 2, 0.5, tie=0.0, hard=hard)
            wrong = contest.candidates[contest.right.index(False)].split()[-1]
            assert (wrong in contest.question.split()) == bool(hard)


def test_close_contests_are_labelled_first_half_of_the_time() -> None:
    random = Random(0)
    labels = [data.lesson(random, 1.0, biased=True)[1].text[0] for _ in range(3000)]
    decided = [label for label in labels if label != data.TIE]
    expected = 0.65 + 0.35 * data.CLOSE_NOISE
    assert decided.count("A") / len(decided) == pytest.approx(expected, abs=0.03)


def test_marks_agree_with_the_prompt() -> None:
    tokenizer = build(0)
    contest = data.facts_contest(Random(3), 3, 0.5, tie=0.0, hard=1.0)
    marked = mark(tokenizer, [(contest, "ABC")])
    asked = data.judge_prompt(contest.question, "", contest.candidates)
    (whole,) = marked.ids.tolist()
    assert tokenizer.decode(whole) == f"<|bos|><|user|>\n{asked}<|end|>\n<|assistant|>\n"
    assert marked.label.sum() == marked.value.sum() == 3
    assert marked.right.sum() == 1
    (place,) = marked.right[0].nonzero()[0].tolist()
    assert int(marked.letter[0, place]) == contest.winner
    assert str(tokenizer.decode(whole[place])) in contest.candidates[contest.winner or 0]


def test_a_probe_finds_a_linear_rule() -> None:
    generator = torch.Generator().manual_seed(0)
    states, rule = torch.randn(500, 8, generator=generator), torch.randn(3, 8, generator=generator)
    assert torch.allclose(probe(states, states @ rule.T), rule, atol=1e-3)


def test_lessons_leave_what_reads_and_are_repeatable() -> None:
    tokenizer = build(0)
    taught = []
    for _ in range(2):
        model = LlamaForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        teach(model, tokenizer, SHORT)
        taught.append(model.state_dict())
    assert all(torch.equal(one, two) for one, two in zip(*map(dict.values, taught), strict=True))
    for name, weight in before.items():
        if name.startswith(("model.layers.0.", "model.layers.1.")):
            assert torch.equal(weight, taught[0][name])
    assert not torch.equal(before["lm_head.weight"], taught[0]["lm_head.weight"])  # the letters


def test_a_batch_of_contests_learns_verdicts_alone() -> None:
    tokenizer = build(0)
    ids, weights = contests(SHORT, tokenizer, Random(0), done=0.9)
    assert ids.shape == weights.shape
    assert ((weights == 0) | (weights == 1)).all()
    assert (weights.sum(1) == 2).all()  # the letter and the end token


@torch.no_grad()
def test_heads_are_cleared_alone() -> None:
    model = LlamaForCausalLM.from_pretrained(WEIGHTS, dtype=torch.float32)
    attention = model.model.layers[3].self_attn
    before = attention.o_proj.weight.clone()
    Heads(model, 3, group=1)
    assert torch.equal(attention.o_proj.weight[:, :64], before[:, :64])
    assert not attention.o_proj.weight[:, 64:].any()
    assert not attention.k_proj.weight[32:].any()
