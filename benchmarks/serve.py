"""Tokens a second, to the first and between tokens: ours beside other people's servers.

All servers hold one model in one type with as many threads, run all the time, and answer in turns:
for each number of clients, every way to ask gets a round, several times, and medians of the rounds
are shown. Each client sends texts of its own, so that nothing can be had from a cache; answers are
greedy and of equal length. With one client a decode step reads every weight once: what it reads in
a second stands beside what a sum over a large tensor reads in the same run.
"""

from __future__ import annotations

import sys

sys.path.pop(0)  # this folder: there pine.py would hide the package `pine`

import argparse
import asyncio
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import torch
from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table

from benchmarks._clients import Answer, Failure, Figures, at_once, figures, middle
from benchmarks._harness import Row, timed, write
from benchmarks._model import Prompts, bytes_a_step
from benchmarks._servers import (
    NAME,
    WAYS,
    Server,
    Setup,
    Way,
    evenhand,
    idle_share,
    running,
    transformers,
    vllm,
)
from pocket import WEIGHTS

WARM_UP = -1  # a turn that does not count
SUMMED = 2**28  # numbers of the tensor that is summed: 1 GiB
IN_CACHE = 2**27  # bytes: smaller weights may stay in the processor's cache
FEW = 0.9  # of the tokens: fewer chunks, or tokens in the text, are named
BUSY = 0.05  # cores: an idle server that takes more is named


@dataclass
class Run:
    """What was seen: rounds by (clients, way), and what must be said about them."""

    rounds: dict[tuple[int, str], list[Figures]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)  # by what they are about
    bandwidth: float = 0.0  # bytes a second, best of all

    def remark(self, about: str, sentence: str) -> None:
        """Keep the first sentence about something."""
        self.remarks.setdefault(about, sentence)


def arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=WEIGHTS, help="folder, or for ours GGUF file")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--clients", default="1,4,16,64", help="numbers, with commas")
    parser.add_argument("--threads", type=int, default=2, help="of each server")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompt", type=int, default=256, help="tokens, about")
    parser.add_argument("--new", type=int, default=64, help="tokens of each answer")
    parser.add_argument("--vllm", type=Path, metavar="PYTHON", help="interpreter that has vllm")
    parser.add_argument("--servers", default="evenhand,transformers,transformers-cb,vllm")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="keep what servers say there")
    parser.add_argument("--options", default="", help="more options of `evenhand serve`")
    parser.add_argument("--markdown", action="store_true", help="print the table for a README")
    parser.add_argument("--quick", action="store_true", help="1 and 4 clients, one short round")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there too")
    options = parser.parse_args()
    if options.quick:
        options.clients, options.rounds, options.new = "1,4", 1, 16
    options.clients = [int(number) for number in options.clients.split(",")]
    return options


def servers(options: argparse.Namespace) -> list[Server]:
    """Return the servers that were asked for and that this model and machine allow."""
    context = 2 * (options.prompt + options.new)
    model, clients = options.model.resolve(), max(options.clients)
    setup = Setup(model, options.dtype, options.threads, context, clients)
    known = {
        "evenhand": lambda: evenhand(setup, options.options),
        "transformers": lambda: transformers(setup, batching=False),
        "transformers-cb": lambda: transformers(setup, batching=True),
        "vllm": lambda: vllm(setup, options.vllm),
    }
    asked = options.servers.split(",")
    if unknown := set(asked) - set(known):
        raise SystemExit(f"--servers must be of {sorted(known)}, got {sorted(unknown)}; correct it")
    if options.vllm is None:
        asked = [name for name in asked if name != "vllm"]
    if not options.model.is_dir():
        asked = [name for name in asked if name == "evenhand"]  # others want a folder
    return [known[name]() for name in asked]


@contextmanager
def started(
    all_: Sequence[Server], options: argparse.Namespace, run: Run
) -> Iterator[dict[str, str]]:
    """Start servers one after another; yield their addresses by name."""
    with ExitStack() as stack:
        logs = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs.mkdir(exist_ok=True)
        found: dict[str, tuple[str, psutil.Process]] = {}
        for server in all_:
            log = logs / f"{server.name}.log"
            found[server.name] = stack.enter_context(running(server, options.threads, log))
        for name, (_, process) in found.items():
            if (share := idle_share(process)) > BUSY:
                run.remark(name, f"{name} used {share:.2f} cores while it had nothing to do")
        yield {name: address for name, (address, _) in found.items()}


def check(way: Way, answers: Sequence[Answer], tokens: int, prompts: Prompts, run: Run) -> None:
    """Remark what would make a round's figures say something else than they seem to."""
    said = {answer.tokens for answer in answers}
    if said != {tokens}:
        sentence = f"{way.name} gave {sorted(said)} tokens where {tokens} were asked for"
        run.remark(f"{way.name}: length", sentence)
    chunks = sum(len(answer.times) for answer in answers)
    total = sum(answer.tokens for answer in answers)
    if chunks < FEW * total:
        sentence = f"{way.name} gave {total} tokens in {chunks} chunks: gaps are between chunks"
        run.remark(f"{way.name}: chunks", sentence)
    read = sum(prompts.counted(answer.text) for answer in answers)
    if read < FEW * total or FEW * read > total:
        sentence = f"{way.name} counts {total} tokens, the tokenizer {read} in its text"
        run.remark(f"{way.name}: count", sentence)


def measure(
    ways: Sequence[Way], addresses: Mapping[str, str], options: argparse.Namespace, run: Run
) -> None:
    """Let every way answer in turn, and sum in between."""
    prompts = Prompts.of(options.model, options.prompt)
    others = str(options.model.resolve())
    numbers = torch.ones(SUMMED)

    def one(way: Way, clients: int, turn: int) -> list[Answer]:
        model = others if way.server.startswith("transformers") else NAME
        seeds = [f"{way.name} {clients} {turn} {client}" for client in range(clients)]
        bodies = [way.body(model, prompts.texts(seed), options.new) for seed in seeds]
        return asyncio.run(at_once(addresses[way.server], bodies))

    def measured(way: Way, clients: int, turn: int) -> bool:
        try:
            answers = one(way, clients, turn)
        except Failure as failure:
            sentence = f"{way.name}, {clients} clients: {failure}; it was not asked again"
            run.remark(f"{way.name}: failure", sentence)
            return False
        if turn == WARM_UP:
            return True
        check(way, answers, options.new, prompts, run)
        run.rounds.setdefault((clients, way.name), []).append(figures(answers))
        seconds = min(timed(numbers.sum) for _ in range(3))
        run.bandwidth = max(run.bandwidth, numbers.nbytes / seconds)
        print(f"{clients} clients, round {turn + 1}, {way.name}: done", file=sys.stderr)
        return True

    ways = [way for way in ways if measured(way, 1, WARM_UP)]
    for clients in options.clients:
        for turn in range(options.rounds):
            ways = [way for way in ways if measured(way, clients, turn)]


def rows(run: Run, weights: int | None) -> list[Row]:
    """Return all figures as rows."""
    made = []
    for (clients, way), rounds in run.rounds.items():
        found, case = middle(rounds), f"{way}, {clients} clients"
        made += [
            Row(case, "rate", found.rate, "tokens/s"),
            Row(case, "time to first token", found.first * 1e3, "ms"),
            Row(case, "time between tokens, median", found.gap * 1e3, "ms"),
            Row(case, "time between tokens, 95th percentile", found.late * 1e3, "ms"),
        ]
        if clients == 1 and weights is not None and weights > IN_CACHE:
            read = weights / found.gap / 1e9
            made.append(Row(case, "weights read", read, "GB/s", run.bandwidth / 1e9))
    return made


def table(run: Run, weights: int | None) -> list[list[str]]:
    """Return the table's cells, the heads first.

    #     clients at once
    gap   time between tokens: median, and 95th percentile
    GB/s  of weights that a step with one client reads, and its share of what a sum reads
    """
    heads = ["#", "server", "tokens/s", "first ms", "gap ms", "95 %", "GB/s"]
    cells = [heads]
    for (clients, way), rounds in sorted(run.rounds.items(), key=lambda item: item[0][0]):
        found, share = middle(rounds), ""
        if clients == 1 and weights is not None and weights > IN_CACHE:
            read = weights / found.gap
            share = f"{read / 1e9:.1f}, {read / run.bandwidth:.2f}"
        times = [f"{seconds * 1e3:.0f}" for seconds in (found.first, found.gap, found.late)]
        cells.append([str(clients), way, f"{found.rate:.1f}", *times, share])
    return cells


def show(title: str, cells: list[list[str]], markdown: bool) -> None:
    """Print a table, for a terminal or for a page."""
    heads, *lines = cells
    if markdown:
        print(f"{title}\n")
        for line in (heads, ["---"] * len(heads), *lines):
            print(f"| {' | '.join(line)} |")
        return
    drawn = Table(title=title, box=SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        drawn.add_column(head, justify="left" if head == "server" else "right", no_wrap=True)
    for line in lines:
        drawn.add_row(*line)
    Console().print(drawn)


def main() -> None:
    """Measure, print, write."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no server outlives this one
    torch.set_num_threads(options.threads)
    run = Run()
    weights = bytes_a_step(options.model, options.dtype)
    chosen = servers(options)
    names = {server.name for server in chosen}
    with started(chosen, options, run) as addresses:
        measure([way for way in WAYS if way.server in names], addresses, options, run)
    title = (
        f"{options.model.name}, {options.dtype}, {options.threads} threads, prompts of about "
        f"{options.prompt} tokens, {options.new} new ones, medians of {options.rounds} rounds; "
        f"a sum reads {run.bandwidth / 1e9:.1f} GB/s"
    )
    show(title, table(run, weights), options.markdown)
    for sentence in run.remarks.values():
        print(f"- {sentence}")
    write(rows(run, weights), options.json)


if __name__ == "__main__":
    main()
