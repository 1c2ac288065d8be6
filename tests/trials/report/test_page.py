"""The report card on a terminal and as a page: everything is there, and nothing is loaded."""

from __future__ import annotations

import io
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import replace

import pytest
from rich.console import Console

from portia.decisions import Answer, DecisionCard
from portia.intervals import Rate, resample
from portia.metrics import Choice, Item, ReportCard
from server.errors import PlanError
from trials.report import plots
from trials.report.figures import Report
from trials.report.page import page
from trials.report.terminal import remarks, table, tables

METHODS = ("none", "swap", "calibrate", "portia", "pine")
CHOICES: tuple[tuple[Choice, Choice], ...] = (("A", "A"), ("A", "B"), ("B", "B"), (None, "A"))


def report(name: str, weights: tuple[int, ...] = (3, 5, 1, 1)) -> Report:
    """Return a report of pairs with these numbers of each of the choices."""
    chosen = [pair for pair, weight in zip(CHOICES, weights, strict=True) for _ in range(weight)]
    items = [Item(*pair, label=1) for pair in chosen]
    share = Rate.of(*resample([(1, 1), (0, 1)] * 5, 2).T)
    return Report(
        name,
        [{"stage": name}],
        items=len(items),
        statuses={"consistent": 7, "order_conflict": 3},
        rungs={name: 7, "no rung": 3},
        decided=share,
        right=share,
        calls=2.0,
        tokens=12345.6,
        seconds=1.25,
        card=ReportCard.of(items),
        decisions=DecisionCard.of(
            [(Answer(place % 3 > 0, 0.6 + place / 30),) for place in range(10)]
        ),
    )


@pytest.fixture(scope="module")
def reports() -> Iterator[list[Report]]:
    reason = "stage 'pine' must have attention, got <none>; leave it out"
    yield [*(report(name) for name in METHODS), Report("other", [], reason=reason)]


def test_five_methods_fit_a_narrow_terminal(reports: list[Report]) -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table(reports[:5], "Judge bias"))
    text = console.export_text()
    for word in (*METHODS, "consistency, PC", "fairness, PF", "accuracy, agreed", "12345.6"):
        assert word in text
    assert re.search(r"consistency, PC( +\.556){5}", text)
    assert re.search(r"fairness, PF( +-\.222){5}", text)
    assert re.search(r"order_conflict( +3){5}", text)
    assert "…" not in text


def test_seven_methods_are_told_in_two_tables(reports: list[Report]) -> None:
    seven = [replace(reports[0], name=name) for name in (*METHODS, "swap+pine", "average")]
    made = tables(seven, "Judge bias", 80)
    assert [len(each.columns) - 1 for each in made] == [4, 3]
    assert [len(each.columns) - 1 for each in tables(seven, "Judge bias", 200)] == [7]
    assert [len(each.columns) - 1 for each in tables(seven, "Judge bias", 5)] == [1] * 7


def test_a_method_that_cannot_run_is_told_with_its_reason(reports: list[Report]) -> None:
    [said] = remarks(reports)
    assert said == (
        "other could not run: stage 'pine' must have attention, got <none>; leave it out"
    )


def test_the_page_is_whole_and_loads_nothing(reports: list[Report]) -> None:
    text = page(reports, "a <set>", {"model": "m", "items": 10})
    assert "a &lt;set&gt;" in text and "got &lt;none&gt;" in text
    assert "<script" not in text and "src=" not in text
    assert set(re.findall(r"https?://[^\"' <]+", text)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert text.count("<svg ") == 4
    assert ".556" in text and "12345.6" in text
    drawn = re.findall(r'<figure role="img" aria-label="([^"]+)"', text)
    assert "none: first slot 30%, same candidate 50%, second slot 10%, not read 10%" in drawn[0]
    assert "pine: consistency, PC .556, fairness, PF -.222" in drawn[1]
    assert "pine: coverage, area" in drawn[2]


def test_every_plot_is_xml_in_the_pages_colours_with_ids_of_its_own(reports: list[Report]) -> None:
    made = plots.plots(reports)
    ids = []
    for plot in made:
        ElementTree.fromstring(plot.svg)
        ids += re.findall(r' id="([^"]+)"', plot.svg)
        assert "var(--ink)" in plot.svg
        assert all(f">{name}<" in plot.svg for name in METHODS)
        assert not any(colour in plot.svg for colour in plots.COLOURS)
        assert set(re.findall(r"#([\w-]+)", plot.svg)) <= set(ids)
    assert len(ids) == len(set(ids)) > 0
    assert made == plots.plots(reports)


def test_a_page_without_choices_has_the_costs_alone() -> None:
    text = page([Report("none", [], items=1, calls=1.0, tokens=2.0, seconds=0.5)], "x", {})
    assert text.count("<svg ") == 1
    nothing = page([Report("none", [], reason="no")], "x", {})
    assert "none could not run: no" in nothing


def test_without_matplotlib_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlanError, match=r"pip install 'evenhand\[report\]'"):
        plots.check()
