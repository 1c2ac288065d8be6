"""Templates of a judge's prompt: built-in ones are files, others come inline with the request.

There is no code in a template: a placeholder is a name in braces, and everything else is text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from server.errors import PlanError
from server.judge.ballot import Ballot

NAMES = ("question", "reference", "criteria", "candidates", "task")
PLACEHOLDER = re.compile(r"\{([A-Za-z_][^{}\s]*)\}")
NEEDS: Mapping[str, str] = MappingProxyType(  # a template that is pointless without
    {"rubric": "criteria", "reference-guided": "reference"}
)


@cache
def built_in() -> Mapping[str, str]:
    """Return the built-in templates by name; the last line break of a file is not theirs."""
    folder = files("server.judge") / "templates"
    return MappingProxyType(
        {
            file.name.removesuffix(".txt"): file.read_text("utf-8").removesuffix("\n")
            for file in sorted(folder.iterdir(), key=lambda each: each.name)
            if file.name.endswith(".txt")
        }
    )


def template_of(ballot: Ballot) -> str:
    """Return a ballot's template.

    Of a built-in one, lines whose value is not given are left out, and the line break behind the
    candidates, since the last of them brings its own. An inline one is taken as it is.
    """
    lines = built_in().get(ballot.template)
    if lines is None:
        return ballot.template
    given = {*values(ballot), "candidates", "task"}
    kept = [
        line
        for line in lines.splitlines(keepends=True)
        if given.issuperset(PLACEHOLDER.findall(line))
    ]
    return "".join(kept).replace("{candidates}\n", "{candidates}")


def values(ballot: Ballot) -> dict[str, str]:
    """Return what the request gives for the placeholders, by their names."""
    given = {
        "question": ballot.question,
        "reference": ballot.reference,
        "criteria": ballot.criteria,
    }
    return {name: value for name, value in given.items() if value is not None}


def check_template(ballot: Ballot) -> None:
    """Refuse a template that cannot be filled, before anything runs (PlanError)."""
    known = built_in().get(ballot.template)
    found = PLACEHOLDER.findall(known or ballot.template)
    unknown = [name for name in found if name not in NAMES]
    if unknown:
        raise _refusal(f"must name only {', '.join(NAMES)} in braces", f"{{{unknown[0][:60]}}}")
    if found.count("candidates") != 1:
        names = f"be one of {', '.join(built_in())}, or contain {{candidates}} once"
        raise _refusal(f"must {names}", f"{ballot.template[:60]!r}")
    for name in values(ballot):
        if name not in found:
            raise _refusal(f"must contain {{{name}}}, which the request gives", "none")
    needed = NEEDS.get(ballot.template)
    if needed and needed not in values(ballot):
        raise PlanError(
            f"template {ballot.template!r} must be given {needed}, got none; send {needed}, or use "
            "another template",
            param="template",
        )
    if known is None and "task" not in found and (ballot.form != "relation" or ballot.evidence):
        how = "with evidence first" if ballot.form == "relation" else f"of form {ballot.form!r}"
        raise _refusal(f"must contain {{task}}, which says how to answer {how}", "none")


def _refusal(rule: str, got: str) -> PlanError:
    return PlanError(f"template {rule}, got {got}; correct the template", param="template")
