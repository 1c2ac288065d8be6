"""Templates of a judge's prompt: built-in ones are files, others come inline with the request.

There is no code in a template: a placeholder is a name in braces, and everything else is text. A
file may have sections, each below a line of its own: `[system]`, `[user]`, `[labels]`, which are
used unless the request names others, and `[assistant KIND]`, with which an answer begins, where
KIND is a form or a set of labels. What comes inline is the user's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import get_args

from server.engines.base import ModelInfo
from server.errors import PlanError
from server.judge.ballot import Ballot, Lettering

AUTO = "auto"
MEASURED = (
    "chat-strict"  # the best of the built-in ones on models that name none (docs/evidence.md)
)
INLINE = "inline"
NAMES = ("question", "reference", "criteria", "candidates", "task")
PLACEHOLDER = re.compile(r"\{([A-Za-z_][^{}\s]*)\}")
SECTION = re.compile(r"^\[(system|user|labels|assistant \w+)\]\n", re.MULTILINE)
ANSWER = "assistant "
NEEDS: Mapping[str, str] = MappingProxyType(  # a template that is pointless without
    {"rubric": "criteria", "reference-guided": "reference"}
)


@dataclass(frozen=True, slots=True)
class Template:
    """The texts of a prompt, with placeholders.

    system   of the chat; "" = it has none
    user     the case, with the candidates' place
    labels   that it is best used with
    openers  with what an answer begins, by its form or by a set of labels, which goes before
    """

    user: str
    system: str = ""
    labels: Lettering = "fixed"
    openers: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Return all that has placeholders."""
        return f"{self.system}\n{self.user}" if self.system else self.user


@cache
def built_in() -> Mapping[str, Template]:
    """Return the built-in templates by name; the last line break of a section is not its own."""
    folder = files("server.judge") / "templates"
    found = {
        file.name.removesuffix(".txt"): _read(file.read_text("utf-8"))
        for file in folder.iterdir()
        if file.name.endswith(".txt")
    }
    return MappingProxyType(dict(sorted(found.items())))


def _read(text: str) -> Template:
    first, *rest = SECTION.split(text)
    if not rest:
        return Template(first.removesuffix("\n"))
    sections = {name: part.strip("\n") for name, part in zip(rest[::2], rest[1::2], strict=True)}
    openers = {
        name.removeprefix(ANSWER): part
        for name, part in sections.items()
        if name.startswith(ANSWER)
    }
    return Template(
        sections["user"],
        sections.get("system", ""),
        _labels(sections.get("labels", "fixed")),
        MappingProxyType(openers),
    )


def _labels(name: str) -> Lettering:
    return next(each for each in get_args(Lettering) if each == name)


def suited(ballot: Ballot, info: ModelInfo) -> Ballot:
    """Return a ballot as it will be shown to a model, whose own template it gets where it may."""
    own = info.template if info.template in built_in() else None
    template = (own or MEASURED) if ballot.template == AUTO else ballot.template
    return replace(ballot, template=template, chat=info.chat)


def labels_of(ballot: Ballot) -> Lettering:
    """Return the labels of a ballot's template where they suit what is asked, else fixed ones."""
    labels = template_of(ballot).labels
    begun = ballot.form == "relation" and "continued" in ballot.chat
    return "fixed" if labels == "brackets" and not begun else labels


def name_of(ballot: Ballot) -> str:
    """Return the name of a ballot's template for the reply."""
    return ballot.template if ballot.template in built_in() else INLINE


def template_of(ballot: Ballot) -> Template:
    """Return a ballot's template.

    Of a built-in one, lines whose value is not given are left out, and the line break behind the
    candidates, since the last of them brings its own. An inline one is taken as it is.
    """
    found = built_in().get(ballot.template)
    if found is None:
        return Template(ballot.template)
    given = {*values(ballot), "candidates", "task"}
    kept = [
        line
        for line in found.user.splitlines(keepends=True)
        if given.issuperset(PLACEHOLDER.findall(line))
    ]
    return replace(found, user="".join(kept).replace("{candidates}\n", "{candidates}"))


def opener(ballot: Ballot) -> str:
    """Return with what the answer begins, so that its next token is the label; "" = with nothing.

    A model that is free to begin as it likes may begin with "**" or "The": then the labels have
    hardly any probability. Before a digit there is a space, which most tokenizers keep apart.
    """
    if ballot.evidence or "continued" not in ballot.chat:
        return ""
    if ballot.lettering == "brackets":
        return "[["
    openers = template_of(ballot).openers
    begun = openers.get(ballot.lettering, openers.get(ballot.form, ""))
    digits = ballot.form != "relation" or ballot.lettering == "numbers"
    return f"{begun} " if begun and digits else begun


def untold(ballot: Ballot) -> list[str]:
    """Return what of a template the model cannot be shown, one sentence each."""
    begun = opener(replace(ballot, chat=frozenset({"continued"})))
    if begun and not opener(ballot):
        return [
            f"template {name_of(ballot)!r} begins the answer with {begun!r}, which this model's "
            "server or chat template is not known to take; the model begins it by itself"
        ]
    return []


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
    found = PLACEHOLDER.findall(known.text if known else ballot.template)
    unknown = [name for name in found if name not in NAMES]
    if unknown:
        raise _refusal(f"must name only {', '.join(NAMES)} in braces", f"{{{unknown[0][:60]}}}")
    if found.count("candidates") != 1:
        names = f"be {AUTO}, one of {', '.join(built_in())}, or contain {{candidates}} once"
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
