"""From what `--model` names to files on this machine; the hub is asked only for a hub name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants, hf_hub_download, snapshot_download
from huggingface_hub import errors as hub

from server.errors import EngineError, EvenhandError, PlanError
from server.reference import Reference

# what a model is made of; no pickles, no code, nothing from a folder below
WANTED = ("*.json", "*.safetensors", "*.jinja", "*.model", "*.txt")
UNWANTED = ("*/*", "consolidated*.safetensors")  # the same weights once more
CUT = 200  # characters of a library's message


@dataclass(frozen=True, slots=True)
class Source:
    """Files of a model.

    path  folder with `config.json`, or GGUF file
    root  where it came from, as it is told
    """

    path: Path
    root: str


def find(reference: Reference | None) -> Source:
    """Return the files that a reference names, fetched first if they are on the hub.

    reference  None = the embedded model
    raises     PlanError    there is no such model, or it may not be had
               EngineError  the hub cannot be reached
    """
    if reference is None:
        from pocket import WEIGHTS

        return Source(WEIGHTS, WEIGHTS.name)
    if reference.path is None:
        return Source(_fetched(reference), str(reference))
    path = reference.path
    if path.is_file():
        if path.suffix != ".gguf":
            raise PlanError(
                f"model must be a folder, a .gguf file or a name on the hub, got the file {path}; "
                "give its folder"
            )
        return Source(path, path.name)
    if not (path / "config.json").is_file():
        inside = sorted(each.name for each in path.glob("*.gguf"))
        raise PlanError(
            f"model must be a folder with a config.json, a .gguf file or a name on the hub "
            f"(org/name), got {path}; " + (f"give {path / inside[0]}" if inside else "correct it")
        )
    return Source(path, path.resolve().name)


def _fetched(reference: Reference) -> Path:
    """Return the local copy of a model on the hub."""
    fetch = _file if reference.file is not None else _snapshot
    try:
        path = fetch(reference)
    except Exception as error:
        raise _told(reference, error) from error
    if reference.file is None and not (path / "config.json").is_file():
        raise PlanError(
            f"model must have a config.json, got none on the hub in {reference}; "
            f"name one of its files (hf://{reference.repository}/FILE.gguf), or another model"
        )
    return path


def _snapshot(reference: Reference) -> Path:
    return Path(
        snapshot_download(
            reference.repository,
            revision=reference.revision,
            allow_patterns=list(WANTED),
            ignore_patterns=list(UNWANTED),
        )
    )


def _file(reference: Reference) -> Path:
    assert reference.file is not None
    return Path(hf_hub_download(reference.repository, reference.file, revision=reference.revision))


def _told(reference: Reference, error: Exception) -> EvenhandError:
    """Return what keeps a model on the hub, in one sentence."""
    page = f"{constants.ENDPOINT}/{reference.repository}"
    # what it is, then what to do; a kind stands before those that it is one of
    named: tuple[tuple[type[Exception], str, str], ...] = (
        (
            hub.GatedRepoError,
            "one that asks for consent first",
            f"ask for access on {page}, then set HF_TOKEN",
        ),
        (hub.DisabledRepoError, "one that is disabled", "name another model"),
        (
            hub.RepositoryNotFoundError,
            "one that the hub does not know or show",
            "correct the name (there is no such folder either), or set HF_TOKEN if it is private",
        ),
        (
            hub.RevisionNotFoundError,
            f"a revision that it lacks ({reference.revision})",
            f"name a branch, tag or commit of {page}",
        ),
        (
            hub.RemoteEntryNotFoundError,
            f"a file that it lacks ({reference.file})",
            f"name a file of {page}",
        ),
        (
            hub.HFValidationError,
            "a name that no model can have",
            "write org/name or org/name@revision",
        ),
        (
            hub.IncompleteSnapshotError,
            "a part of it in the cache, and no network",
            "run it once with the network, to fetch the rest",
        ),
    )
    for kind, said, then in named:
        if isinstance(error, kind):
            got = f"{reference} ({said})"
            return PlanError(f"model must be one that can be had from the hub, got {got}; {then}")
    return _unreached(reference, error)


def _unreached(reference: Reference, error: Exception) -> EvenhandError:
    """Return why the hub gave nothing, where that is not the model's fault."""
    if constants.HF_HUB_OFFLINE:
        return PlanError(
            f"model must be in the cache ({constants.HF_HUB_CACHE}) while HF_HUB_OFFLINE is set, "
            f"got {reference}, which is not; fetch it once without, or give a folder"
        )
    status = getattr(getattr(error, "response", None), "status_code", None)
    cause = error.__cause__ or error
    said = (
        f"HTTP {status}" if status else " ".join(f"{type(cause).__name__}: {cause}".split())[:CUT]
    )
    then = "try again later, or give a folder"
    if status in {401, 403}:
        then = "set HF_TOKEN to a token that may read it"
    elif isinstance(error, OSError) and error.errno is not None:
        then = f"see to the cache ({constants.HF_HUB_CACHE}), or set HF_HOME"
    return EngineError(f"hub must give {reference}, got {said}; {then}")
