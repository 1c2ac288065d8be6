"""A study of one model on data laid out as they are published, and the page that shows it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from evidence_data import lay_out

from portia.intervals import Rate, resample
from server.engines.scripted import Answer, Scripted, content_judge
from server.errors import PlanError
from server.job import Sampling
from trials.datasets import Item
from trials.evidence.models import models
from trials.evidence.remembered import Remembered
from trials.evidence.study import KEYS, LARGE, SETS, Sizes, drawn, study
from trials.evidence.tables import page, rated, table


def longest(text: str, slot: int) -> float:
    return float(len(text)) + (0.5 if slot == 0 else 0.0)


def judges_and_reads(prompt: str, sampling: Sampling) -> Answer:
    if sampling.labels:
        return content_judge(longest)(prompt, sampling)
    return Answer(prompt.split("\n\n")[1])


def scripted() -> Scripted:
    return Scripted(judges_and_reads, ("text", "logprobs", "attention"))


async def test_every_part_is_asked_and_shown(tmp_path: Path) -> None:
    lay_out(tmp_path)
    engine = Remembered(scripted(), tmp_path / "answers.jsonl")
    sizes = Sizes(pairs=3, questions=2, documents=(3,))
    found = await study(engine, tmp_path, sizes)
    await engine.close()
    told = page(found)
    for name in SETS.values():
        assert f"### {name}" in told
        assert {report.items for report in found.pairs[name] if report.reason is None} == {3}
    assert "### questions among 3 passages" in told
    assert f"### keys among {KEYS} pairs" in told
    assert "| plain, mean of places | 2 |" in told
    assert "| swap | 3 |" in told


async def test_a_second_study_asks_nothing(tmp_path: Path) -> None:
    lay_out(tmp_path)
    sizes = Sizes(pairs=2, questions=2, documents=(3,))
    pages = []
    for _ in range(2):
        script = scripted()
        engine = Remembered(script, tmp_path / "answers.jsonl")
        pages.append(page(await study(engine, tmp_path, sizes)))
        await engine.close()
    assert not script.works
    assert pages[0] == pages[1]


def test_large_models_are_sampled_unless_all_is_asked_for() -> None:
    small, large = Sizes.fit(LARGE // 2, False), Sizes.fit(2 * LARGE, False)
    assert large.documents < small.documents
    assert large.pairs == 100
    assert Sizes.fit(2 * LARGE, True).pairs is None
    assert Sizes.fit(2 * LARGE, False, pairs=7, documents=None).pairs == 7


def test_a_sample_is_drawn_from_its_seed() -> None:
    items = [Item(str(n), "Q?", ("a", "b"), ("x", "y")) for n in range(50)]
    one, other = (drawn(items, Sizes(pairs=9, seed=seed)) for seed in (0, 1))
    assert one == drawn(items, Sizes(pairs=9)) != other
    assert drawn(items, Sizes(pairs=99)) == items


def test_figures_have_their_intervals() -> None:
    above, below = resample([(1, 1)] * 3 + [(0, 1)], 2).T
    assert rated(Rate.of(above, below)).startswith(".75 (.30 to .95")
    assert rated(Rate(None, None, None)) == "-"
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_models_are_known_by_their_files(tmp_path: Path) -> None:
    (tmp_path / "one.gguf").write_bytes(b"weights")
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "config.json").write_text(json.dumps({}))
    (tmp_path / "two" / "model.safetensors").write_bytes(b"weights")
    one, two = models(tmp_path)
    assert (one.name, two.name) == ("one.gguf", "two")
    assert one.digest == two.digest  # of the same bytes
    assert models(tmp_path / "one.gguf") == [one]
    with pytest.raises(PlanError, match="folder of models"):
        models(tmp_path / "none")
