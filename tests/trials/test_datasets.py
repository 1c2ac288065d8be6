"""Data sets in the formats people have them in: what is read, and which line is at fault."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.errors import PlanError
from trials.datasets import TIE, Item, load

LLMBAR = Path(__file__).parents[3] / "shared" / "data" / "LLMBar"
words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)
quick = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def lines(*rows: Any) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read(folder: Path, text: str, name: str = "data.jsonl", **options: Any) -> list[Item]:
    (folder / name).write_bytes(text.encode())
    return load([str(folder / name)], **options)


def shown(item: Item) -> tuple[Any, ...]:
    return item.question, item.candidates, item.label


PAIR: list[tuple[dict[str, Any], int | None]] = [
    ({"input": "q", "output_1": "a", "output_2": "b", "label": 2}, 1),
    ({"question": "q", "response_A": "a", "response_B": "b", "label": "A>B", "pair_id": "p"}, 0),
    ({"question": "q", "response_A": "a", "response_B": "b", "label": "B>A", "pair_id": "p"}, 1),
    ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.04}, 0),
    ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 2}, 1),
    ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": 1.5}, TIE),
    ({"instruction": "q", "output_1": "a", "output_2": "b", "preference": None}, None),
    ({"question": "q", "candidates": ["a", "b"]}, None),
    ({"question": "q", "candidates": ["a", "b"], "label": 1}, 1),
    ({"question": "q", "candidates": ["a", "b"], "label": "tie"}, TIE),
    ({"question": "q", "candidates": [{"id": "x", "text": "a"}, "b"], "label": "x"}, 0),
]


@pytest.mark.parametrize(("row", "label"), PAIR)
def test_each_format_is_found_out_by_its_fields(
    tmp_path: Path, row: dict[str, Any], label: int | None
) -> None:
    [item] = read(tmp_path, lines(row))
    assert shown(item) == ("q", ("a", "b"), label)
    assert shown(read(tmp_path, json.dumps([row]), "data.json")[0]) == shown(item)
    assert shown(read(tmp_path, json.dumps(row, indent=2), "one.json")[0]) == shown(item)


@pytest.mark.parametrize(
    ("columns", "label", "found"),
    [
        ({"answer_1": "a", "answer_2": "b"}, {"label": "2"}, 1),
        ({"answer_1": "a", "answer_2": "b"}, {"winner": "answer_1"}, 0),
        ({"A": "a", "B": "b"}, {"winner": "b"}, 1),
        ({"response_a": "a", "response_b": "b"}, {"label": "A"}, 0),
        ({"Candidate X": "a", "Candidate Y": "b"}, {"label": "y"}, 1),
        ({"a": "a", "b": "b"}, {"label": "Tie"}, TIE),
        ({"a": "a", "b": "b"}, {"label": ""}, None),
        ({"a": "a", "b": "b"}, {}, None),
    ],
)
def test_csv_takes_its_answers_and_label_from_the_columns(
    tmp_path: Path, columns: dict[str, str], label: dict[str, str], found: int | None
) -> None:
    row = {"question": "q", **columns, **label}
    [item] = read(tmp_path, ",".join(row) + "\n" + ",".join(row.values()) + "\n", "pairs.csv")
    assert shown(item) == ("q", ("a", "b"), found)
    assert item.ids == tuple(columns)


@quick
@given(rows=st.lists(st.tuples(words, words, words, st.sampled_from([0, 1])), min_size=1))
def test_whatever_is_written_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str, str, int]]
) -> None:
    as_json = [
        {"question": question, "candidates": [first, second], "label": label}
        for question, first, second, label in rows
    ]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["question", "answer_0", "answer_1", "label"])
    writer.writerows(rows)
    expected = [(question, (first, second), label) for question, first, second, label in rows]
    for text, name in (
        (lines(*as_json), "data.jsonl"),
        (json.dumps(as_json), "data.json"),
        (table.getvalue(), "data.csv"),
    ):
        assert [shown(item) for item in read(tmp_path, text, name)] == expected
    (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(lines(*as_json).encode()))
    assert [shown(item) for item in load([str(tmp_path / "data.jsonl.gz")])] == expected


def test_a_first_slot_judge_gains_nothing_where_the_better_one_always_came_first(
    tmp_path: Path,
) -> None:
    rows = [
        {"prompt": "q", "chosen": "good", "rejected": "bad", "subset": "s", "id": index}
        for index in range(400)
    ]
    items = read(tmp_path, lines(*rows))
    assert all(item.candidates[item.label or 0] == "good" for item in items)
    first = Counter(item.label for item in items)
    assert 150 < first[0] < 250
    assert items == read(tmp_path, lines(*rows))
    reversed_rows = read(tmp_path, lines(*rows[::-1]))
    assert {item.key for item in items} == {item.key for item in reversed_rows}
    assert items != read(tmp_path, lines(*rows), seed=1)
    assert items[0].about == {"subset": "s", "placed_by": "coin"}
    assert items[7].id == "s/7"


def conversation(*answers: str) -> list[dict[str, str]]:
    said = []
    for number, answer in enumerate(answers, 1):
        said += [{"role": "user", "content": f"q{number}"}]
        said += [{"role": "assistant", "content": answer}]
    return said


def vote(winner: str, exchanged: bool = False, turn: int = 1) -> dict[str, Any]:
    models = {"model_a": "m", "model_b": "n"}
    talks = {"conversation_a": conversation("a", "c"), "conversation_b": conversation("b", "d")}
    if exchanged:
        models = {"model_a": "n", "model_b": "m"}
        talks = {
            "conversation_a": talks["conversation_b"],
            "conversation_b": talks["conversation_a"],
        }
    return {"question_id": 81, **models, "winner": winner, "judge": "x", "turn": turn, **talks}


@pytest.mark.parametrize(
    ("votes", "label"),
    [
        ([vote("model_a")], 0),
        ([vote("tie")], TIE),
        ([vote("model_a"), vote("model_a", exchanged=True), vote("model_a", exchanged=True)], 1),
        ([vote("model_a"), vote("model_b")], TIE),
        ([vote("model_a"), vote("tie (inconsistent)"), vote("model_b", exchanged=True)], 0),
    ],
)
def test_mt_bench_votes_on_one_game_are_one_item_with_the_choice_of_most(
    tmp_path: Path, votes: list[Any], label: int
) -> None:
    [item] = read(tmp_path, lines(*votes))
    assert shown(item) == ("q1", ("a", "b"), label)
    assert item.ids == ("m", "n")
    assert sum(item.about["votes"].values()) == len(votes)


def test_the_second_turn_of_mt_bench_shows_the_first(tmp_path: Path) -> None:
    first, second = read(tmp_path, lines(vote("model_a"), vote("model_b", turn=2)))
    assert first.question == "q1"
    assert second.question == "1. q1\n\n2. q2"
    assert second.candidates == ("1. a\n\n2. c", "1. b\n\n2. d")
    assert (first.label, second.label) == (0, 1)


def fastchat(folder: Path) -> Path:
    """Write FastChat's folder: two questions, two models, a reference to the first question."""
    for name in ("model_answer", "reference_answer", "model_judgment"):
        (folder / name).mkdir(parents=True)
    questions = [{"question_id": n, "turns": [f"q{n}", f"then{n}"]} for n in (1, 2)]
    (folder / "question.jsonl").write_text(lines(*questions))

    def answers(model: str, *numbers: int) -> str:
        return lines(
            *(
                {"question_id": n, "choices": [{"turns": [f"{model}{n}", f"{model}{n}!"]}]}
                for n in numbers
            )
        )

    (folder / "model_answer" / "m.jsonl").write_text(answers("m", 1, 2))
    (folder / "model_answer" / "n.jsonl").write_text(answers("n", 1, 2))
    (folder / "reference_answer" / "gpt-4.jsonl").write_text(answers("right", 1))
    return folder


def test_fastchats_folder_is_every_pair_or_the_games_that_were_judged(tmp_path: Path) -> None:
    folder = fastchat(tmp_path / "mt_bench")
    items = load([str(folder)])
    assert [item.id for item in items] == ["1/m/n/1", "1/m/n/2", "2/m/n/1", "2/m/n/2"]
    assert shown(items[0]) == ("q1", ("m1", "n1"), None)
    assert shown(items[3]) == ("1. q2\n\n2. then2", ("1. m2\n\n2. m2!", "1. n2\n\n2. n2!"), None)
    assert [item.reference for item in items] == ["right1", "1. right1\n\n2. right1!", None, None]

    judged = {"question_id": 2, "model_1": "n", "model_2": "m", "turn": 1}
    said = [
        {**judged, "g1_winner": "model_1", "g2_winner": "model_1"},
        {**judged, "question_id": 1, "g1_winner": "model_1", "g2_winner": "tie"},
        {**judged, "turn": 2, "g1_winner": "error", "g2_winner": "model_1"},
    ]
    (folder / "model_judgment" / "gpt-4_pair.jsonl").write_text(lines(*said))
    found = {item.id: (item.candidates[0], item.label) for item in load([str(folder)])}
    assert found == {
        "2/n/m/1": ("n2", 0),
        "1/n/m/1": ("n1", TIE),
        "2/n/m/2": ("1. n2\n\n2. n2!", None),
    }


def test_mt_benchs_files_may_be_named_one_by_one(tmp_path: Path) -> None:
    folder = fastchat(tmp_path)
    models = [str(folder / "model_answer" / f"{name}.jsonl") for name in "mn"]
    assert len(load([str(folder / "question.jsonl"), *models])) == 4
    with pytest.raises(PlanError, match="must have the answers of two models, got 1"):
        load([str(folder / "question.jsonl"), models[0]])
    (folder / "model_answer" / "n.jsonl").write_text(
        lines({"question_id": 1, "choices": [{"turns": ["n1", "n1!"]}]})
    )
    with pytest.raises(
        PlanError, match=r"question 2 of question\.jsonl:2 must have its n, got none"
    ):
        load([str(folder)])


def test_two_models_outputs_are_paired_by_their_instructions(tmp_path: Path) -> None:
    def outputs(model: str, *instructions: str) -> str:
        rows = [
            {"instruction": each, "output": f"{model} {each} {place}", "generator": model}
            for place, each in enumerate(instructions)
        ]
        return json.dumps(rows)

    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(outputs("m", "x", "y", "x"))
    two.write_text(outputs("n", "y", "x", "x"))
    items = load([str(one), str(two)])
    assert [item.candidates for item in items] == [
        ("m x 0", "n x 1"),
        ("m y 1", "n y 0"),
        ("m x 2", "n x 2"),
    ]
    assert items[0].ids == ("m", "n")
    two.write_text(outputs("n", "y", "x"))
    with pytest.raises(PlanError, match=r"instruction of one\.json:1 must be in both files"):
        load([str(one), str(two)])


BROKEN = [
    (lines(PAIR[0][0], {"input": "q"}), "d.jsonl", "output_1 of d.jsonl:2 must be text, got none"),
    (lines(PAIR[0][0]) + "\n{", "d.jsonl", "d.jsonl:3 must be JSON, got a fault"),
    (lines(PAIR[0][0], 5), "d.jsonl", "d.jsonl:2 must be a JSON object, got 5"),
    ('[{"input": "q",\n"output_1": "a", "output_2": "b", "label": 1},\n\n{"input": 3}]', "d.json",
     "input of d.json:4 must be text, got 3"),
    ('[{"input": "q"},\n{"input"]', "d.json", "d.json:2 must be JSON"),
    ("[] x", "d.json", "d.json:1 must be JSON, got a fault (more after the end"),
    ("[" * 99999, "d.json", "d.json:1 must be JSON"),
    (lines({**PAIR[0][0], "label": 3}), "d.jsonl", "label of d.jsonl:1 must be one of 1, 2, got 3"),
    (lines({**PAIR[1][0], "label": "A=B"}), "d.jsonl", "must be one of A>B, B>A, got \"A=B\""),
    (lines({**PAIR[3][0], "preference": 3}), "d.jsonl", "preference of d.jsonl:1 must be a number"),
    (lines(vote("nobody")), "d.jsonl", "winner of d.jsonl:1 must be model_a, model_b"),
    (lines({**vote("tie"), "conversation_a": "x"}), "d.jsonl", "conversation_a of d.jsonl:1 must"),
    (lines(vote("tie", turn=3)), "d.jsonl", "turn of d.jsonl:1 must be 1 or 2, got 3"),
    (lines({"question": "q", "candidates": ["a"]}), "d.jsonl", "candidates of d.jsonl:1 must be a"),
    (lines({"question": "q", "candidates": ["a", 2]}), "d.jsonl",
     "text of candidates.1 of d.jsonl:1 must be text, got 2"),
    (lines({"question": " ", "candidates": ["a", "b"]}), "d.jsonl", "question of d.jsonl:1 must"),
    (lines({"question": "q", "candidates": ["a", "b"], "label": "2"}), "d.jsonl",
     "label of d.jsonl:1 must be one of tie, 0, 1"),
    (lines({"question": "q", "candidates": [{"id": "tie", "text": "a"}, "b"]}), "d.jsonl",
     "candidates of d.jsonl:1 must have ids that differ, none of them 'tie'"),
    ('{"question": "\\ud800", "candidates": ["a", "b"]}\n', "d.jsonl", "half characters"),
    ("question,a,b\nq,1,2\nq,1\n", "d.csv", "d.csv:3 must have 3 values"),
    ('question,a,b\nq,"1\n\n2",3\nq,1,2,3\n', "d.csv", "d.csv:5 must have 3 values"),
    ("question,a\nq,1\n", "d.csv", "d.csv:2 must have two columns of answers"),
    ("question,a,b,label\nq,1,2,c\n", "d.csv", "label of d.csv:2 must be one of tie, a, b"),
    (lines({"text": "x"}), "d.jsonl", "d.jsonl:1 must have the fields of a known format"),
    (lines(*[{"id": "x", "question": "q", "candidates": ["a", "b"]}] * 2), "d.jsonl",
     "ids must differ, got 'x' twice"),
    ("", "d.jsonl", "data must have a record, got none"),
    ("question,a,b\n", "d.csv", "data must have a record, got none"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "name", "said"), BROKEN)
def test_a_broken_record_is_told_in_one_sentence_with_its_line(
    tmp_path: Path, text: str, name: str, said: str
) -> None:
    with pytest.raises(PlanError) as caught:
        read(tmp_path, text, name)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_what_is_no_data_is_told(tmp_path: Path) -> None:
    (tmp_path / "parquet").write_bytes(b"PAR1\xff\xfe")
    (tmp_path / "x.gz").write_bytes(b"no gzip")
    for name, said in (
        (tmp_path / "none", "(No such file or directory)"),
        (tmp_path / "parquet", "byte 4 of another kind"),
        (tmp_path / "x.gz", "Not a gzipped file"),
        (tmp_path, "must be a folder with dataset.json files or a question.jsonl"),
        ("pocket:0", "must be followed by a count"),
        ("pocket:x", "must be followed by a count"),
    ):
        with pytest.raises(PlanError) as caught:
            load([str(name)])
        assert said in caught.value.message
    with pytest.raises(PlanError, match="format must be one of auto, llmbar"):
        load(["pocket"], "xml")


def test_a_format_that_is_named_is_used(tmp_path: Path) -> None:
    row = {**PAIR[0][0], "question": "other", "candidates": ["c", "d"], "label": "1"}
    assert read(tmp_path, lines(row))[0].question == "q"
    assert read(tmp_path, lines(row), schema="jsonl")[0].question == "other"


def test_the_key_changes_with_what_the_judge_sees_and_nothing_else() -> None:
    item = Item("1", "q", ("a", "b"), ("x", "y"))
    assert item.key == Item("1", "q", ("a", "b"), ("x", "y"), label=1, about={"k": 1}).key
    others = [
        Item("2", "q", ("a", "b"), ("x", "y")),
        Item("1", "q!", ("a", "b"), ("x", "y")),
        Item("1", "q", ("b", "a"), ("x", "y")),
        Item("1", "q", ("a", "b"), ("y", "x")),
        Item("1", "q", ("a", "b"), ("x", "y"), reference="r"),
    ]
    assert len({item.key, *(other.key for other in others)}) == 6
    assert item.body((1, 0))["candidates"] == [{"id": "y", "text": "b"}, {"id": "x", "text": "a"}]


def test_the_embedded_models_own_task() -> None:
    items = load(["pocket:200"])
    assert len(items) == 200
    assert items == load(["pocket:200"])
    assert items != load(["pocket:200"], seed=1)
    assert 70 < sum(item.label == 0 for item in items) < 130
    assert {item.label for item in items} == {0, 1}
    assert len(load(["pocket"])) == 1000


@pytest.mark.skipif(not LLMBAR.exists(), reason="the data set is not here")
def test_llmbar_as_it_is_published() -> None:
    items = load([str(LLMBAR / "LLMBar")])
    assert len(items) == 419
    subsets = Counter(item.about["subset"] for item in items)
    assert subsets["Natural"] == 100
    assert subsets["Adversarial/Neighbor"] == 134
    assert {item.label for item in items} == {0, 1}
    [first, *_] = json.loads((LLMBAR / "LLMBar/Natural/dataset.json").read_text())
    named = {item.id: item for item in items}["Natural/0"]
    assert named.question == first["input"]
    assert named.candidates == (first["output_1"], first["output_2"])
    assert named.label == first["label"] - 1
    assert len(load([str(LLMBAR / "Processed")])) == 466
    assert len(load([str(LLMBAR / "CaseStudy")])) == 315
