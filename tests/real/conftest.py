"""`make test-real MODELS=dir`: every model of a folder, each served as people serve it.

MODELS  the folder: `*.gguf`, and folders with a config.json; without it, all is skipped
SERVE   more options of `evenhand serve`
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_server import Served, serving_model

SIGNS = {"passed": "yes", "failed": "NO", "error": "NO", "skipped": "-"}


def models() -> list[Path]:
    """Return the models of the folder that was named, by name."""
    folder = os.environ.get("MODELS")
    if not folder:
        return []
    folders = [file.parent for file in Path(folder).glob("*/config.json")]
    found = sorted([*Path(folder).glob("*.gguf"), *folders])
    if not found:
        raise pytest.UsageError(f"MODELS must be a folder of models, got none in {folder}")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "served" in metafunc.fixturenames:
        none = pytest.param(None, id="none", marks=pytest.mark.skip("MODELS names no folder"))
        found = [pytest.param(path, id=path.name) for path in models()] or [none]
        metafunc.parametrize("served", found, indirect=True, scope="session")


@pytest.fixture(scope="session")
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """Serve one model; its tests run together."""
    log = tmp_path_factory.mktemp("log") / "stderr"
    with serving_model(request.param, os.environ.get("SERVE", ""), log) as found:
        yield found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say of every model what passed."""
    table: dict[str, dict[str, str]] = defaultdict(dict)
    for outcome, sign in SIGNS.items():
        for report in terminalreporter.stats.get(outcome, []):
            folder, _, rest = report.nodeid.rpartition("/")
            test, bracket, model = rest.rpartition("::")[2].partition("[")
            if bracket and folder == "tests/real":
                said = f" ({report.longrepr[2]})" if outcome == "skipped" else ""
                name = test.removeprefix("test_").replace("_", " ")
                table[model.rstrip("]")][name] = sign + said
    for model, tests in table.items():
        terminalreporter.write_sep("-", model)
        for name, said in tests.items():
            terminalreporter.write_line(f"{name}: {said}")
