"""Training: the same seed gives the same bytes, and the loss is the weighted mean it says."""

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from pocket import data
from pocket.tokenizer import build
from pocket.train import (
    Course,
    Recipe,
    configuration,
    draw,
    encode,
    incline_to_copy,
    loss_of,
    train,
)

TINY = Recipe(steps=3, tokens=256, warmup=2, threads=1)


def test_three_steps_give_identical_weights_twice(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train(TINY, tmp_path / name)
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]  # nothing half done
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert isinstance(model, LlamaForCausalLM)
    assert model.dtype == torch.float32
    assert AutoTokenizer.from_pretrained(tmp_path / "one").eos_token == "<|end|>"


def test_a_batch_keeps_to_its_budget_and_weighs_answers() -> None:
    tokenizer = build(0)
    random = Random(0)
    for most in (2, 4, 8):
        ids, weights = draw(Recipe(tokens=1024), tokenizer, random, most, judging=True)
        assert ids.shape == weights.shape
        # Without its last row, which may be the longest, a batch keeps to the budget.
        assert (ids.shape[0] - 1) * (weights[:-1] > 0).any(0).sum() <= 1024
        assert (weights[ids == tokenizer.pad_token_id] == 0).all()
        assert (weights > 0).any(1).all()


def test_pieces_are_tokenised_as_the_whole() -> None:
    tokenizer = build(0)
    random = Random(0)
    for _ in range(40):
        pieces = data.sample(random, 6)
        ids, weights = encode(tokenizer, pieces)
        whole = "".join(piece.text for piece in pieces)
        assert len(ids) == len(weights)
        if "<|fim_prefix|>" not in whole:  # the middle is cut out on purpose
            assert ids == tokenizer.encode(whole, add_special_tokens=False)


def test_the_loss_is_the_weighted_mean() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(build(0)))
    ids = torch.randint(9, 1000, (2, 7))
    weights = torch.rand(2, 7) * (torch.rand(2, 7) > 0.3)
    with torch.inference_mode():
        chances = model(input_ids=ids).logits.double().log_softmax(-1)
        total = sum(
            -weights[row, place] * chances[row, place - 1, ids[row, place]]
            for row in range(2)
            for place in range(1, 7)
        )
        expected = float(total / weights[:, 1:].sum())
        assert float(loss_of(model, ids, weights)[0]) == pytest.approx(expected, rel=1e-5)


def test_heads_start_inclined_to_copy() -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(configuration(build(0)))
    before = [weight.clone() for weight in model.parameters()]
    incline_to_copy(model, 0.0)
    assert all(torch.equal(one, two) for one, two in zip(before, model.parameters(), strict=True))
    incline_to_copy(model, 1.0)
    attention = model.model.layers[0].self_attn
    for head, group in ((0, 0), (1, 0), (2, 1), (3, 1)):
        rows, shared = slice(32 * head, 32 * head + 32), slice(32 * group, 32 * group + 32)
        assert torch.equal(attention.q_proj.weight[rows], attention.k_proj.weight[shared])
        assert torch.equal(attention.o_proj.weight[:, rows], attention.v_proj.weight[shared].T)


def test_sequences_grow_once_reading_is_found() -> None:
    course = Course(2000)
    for step in range(300):
        assert course.most_documents(step) == 4
        course.note(step, 0.5)
    early = course.found
    for step in range(300, 580):
        course.note(step, 1.0)
    assert early is None
    assert course.found is not None
    assert 300 < course.found < 580
    sizes = [course.most_documents(step) for step in range(course.found, 2001)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (4, 20)


def test_sequences_grow_in_the_end_whatever_was_found() -> None:
    course = Course(100)
    for step in range(31):
        course.note(step, 0.0)
    assert course.found == 30
