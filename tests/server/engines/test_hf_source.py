"""Where a model's files come from: the disk, or the hub's cache as its own library lays it out."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx2
import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from huggingface_hub.utils._paths import filter_repo_objects

from pocket import WEIGHTS
from server.engines import registry
from server.engines.hf import source
from server.engines.hf.source import Source, find
from server.errors import EngineError, EvenhandError, PlanError
from server.reference import refer
from server.settings import Settings

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return an empty cache of the hub, which cannot be reached."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils._http.close_session()  # it remembers whether it is offline
    yield tmp_path
    huggingface_hub.utils._http.close_session()


def kept(cache: Path, *, without: str = "", revision: str = "main") -> Path:
    """Lay a model out in the cache as huggingface_hub does; return its snapshot."""
    store = cache / "models--org--name"
    snapshot = store / "snapshots" / SHA
    snapshot.mkdir(parents=True)
    (store / "blobs").mkdir()
    (store / "refs").mkdir()
    (store / "refs" / revision).write_text(SHA)
    for file in WEIGHTS.iterdir():
        if file.name != without:
            blob = store / "blobs" / f"blob-{file.name}"
            shutil.copy(file, blob)
            (snapshot / file.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


def test_a_hub_name_is_served_from_the_cache(cache: Path) -> None:
    kept(cache)
    engine = registry.load(Settings(model="org/name"))
    try:
        assert (engine.info.id, engine.info.root) == ("org/name", "org/name")
        assert "attention" in engine.offers
    finally:
        asyncio.run(engine.close())


@pytest.mark.parametrize("written", ["v2", SHA])
def test_a_revision(cache: Path, written: str) -> None:
    snapshot = kept(cache, revision="v2")
    assert find(refer(f"hf://org/name@{written}")) == Source(snapshot, f"org/name@{written}")


def test_what_the_cache_lacks(cache: Path) -> None:
    with pytest.raises(PlanError, match=r"must be in the cache .* while HF_HUB_OFFLINE .*org/name"):
        find(refer("org/name"))
    kept(cache, revision="v2")
    with pytest.raises(PlanError, match="must be in the cache"):
        find(refer("org/name"))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_part_of_it_in_the_cache(cache: Path, file: str) -> None:
    kept(cache, without=file)
    with pytest.raises(EvenhandError, match=r"must (hold safetensors|have a (tokenizer|config))"):
        registry.load(Settings(model="org/name"))


def test_one_file_of_it(cache: Path) -> None:
    snapshot = kept(cache)
    (snapshot / "small.gguf").write_bytes(b"GGUF")
    found = find(refer("hf://org/name/small.gguf"))
    assert found == Source(snapshot / "small.gguf", "org/name/small.gguf")


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/x"))


HUB_ERRORS = [
    (errors.GatedRepoError("x", response=response(403)), PlanError, "consent.*ask for access on"),
    (errors.DisabledRepoError("x", response=response(403)), PlanError, "disabled"),
    (errors.RepositoryNotFoundError("x", response=response(401)), PlanError, "not know.*HF_TOKEN"),
    (errors.RevisionNotFoundError("x", response=response(404)), PlanError, r"revision .*\(main\)"),
    (errors.RemoteEntryNotFoundError("x", response=response(404)), PlanError, "a file that it"),
    (errors.HFValidationError("x"), PlanError, "no model can have"),
    (
        errors.IncompleteSnapshotError("x", snapshot_path="y"),
        PlanError,
        "a part of it in the cache",
    ),
    (errors.LocalEntryNotFoundError("x"), EngineError, "try again later"),
    (errors.HfHubHTTPError("x", response=response(503)), EngineError, "got HTTP 503; try again"),
    (errors.HfHubHTTPError("x", response=response(401)), EngineError, "got HTTP 401; set HF_TOKEN"),
    (httpx2.ConnectError("no route\nto host"), EngineError, "got ConnectError: no route to host"),
    (httpx2.ProxyError("no"), EngineError, "got ProxyError"),
    (OSError(28, "No space left on device"), EngineError, "No space left .*; see to the cache"),
    (PermissionError(13, "Permission denied"), EngineError, "Permission denied.*HF_HOME"),
]


@pytest.mark.parametrize(("error", "kind", "expected"), HUB_ERRORS)
def test_what_keeps_a_model_on_the_hub(
    error: Exception, kind: type[EvenhandError], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(source, "snapshot_download", fails)
    with pytest.raises(kind, match=expected) as raised:
        find(refer("org/name@main"))
    assert raised.value.message.count("\n") == 0
    assert "org/name@main" in raised.value.message


def test_only_weights_and_words_are_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{}")
    files = [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
        "chat_template.jinja",
        "merges.txt",
    ]
    others = ["pytorch_model.bin", "modeling_x.py", "onnx/config.json", "consolidated.safetensors"]

    def snapshot(repository: str, **options: list[str]) -> str:
        kept = filter_repo_objects(
            [*files, *others],
            allow_patterns=options["allow_patterns"],
            ignore_patterns=options["ignore_patterns"],
        )
        assert list(kept) == files
        return str(tmp_path)

    monkeypatch.setattr(source, "snapshot_download", snapshot)
    assert find(refer("org/name")).path == tmp_path


def test_files_and_folders_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"must be a folder with a config.json.*correct it"):
        find(refer(str(tmp_path / "none.gguf")))
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(PlanError, match=r"got the file .*weights.bin; give its folder"):
        find(refer(str(tmp_path / "weights.bin")))
    (tmp_path / "small.gguf").write_bytes(b"GGUF")
    with pytest.raises(PlanError, match=r"give .*small.gguf"):
        find(refer(str(tmp_path)))
