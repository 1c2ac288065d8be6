"""What a model's chat template can show, found out by trying it."""

from __future__ import annotations

from copy import deepcopy

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pocket import WEIGHTS
from pocket.tokenizer import JUDGE_TEMPLATE
from server.prompt import ChatAbility
from server.text.chat import named_template, takes

LOOP = "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + LOOP
)
TWICE = LOOP + LOOP
NO_ANSWERS = "{% for m in messages if m.role != 'assistant' %}{{ m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (LOOP, {"system", "continued"}),
        (NO_SYSTEM, {"continued"}),
        (TWICE, set()),
        (NO_ANSWERS, {"system"}),
        (None, set()),
    ],
)
def test_what_a_chat_template_takes(
    tokenizer: PreTrainedTokenizerFast, template: str | None, found: set[ChatAbility]
) -> None:
    own = deepcopy(tokenizer)
    own.chat_template = template
    assert takes(own) == found


def test_a_model_names_the_judges_template_that_it_was_trained_on(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert named_template(AutoTokenizer.from_pretrained(WEIGHTS)) == JUDGE_TEMPLATE == "plain"
    assert named_template(tokenizer) is None
    strange = deepcopy(tokenizer)
    strange.init_kwargs["judge_template"] = ["plain"]
    assert named_template(strange) is None
