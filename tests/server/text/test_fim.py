"""Prompts to fill in, in the words of each family, by tokenizers made here."""

import re
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from server.errors import PlanError
from server.prompt import File, FillOrder, FillPrompt, Part, TextPrompt
from server.text.prompts import Encoded, Encoder
from server.text.vocabulary import Vocabulary

PIPES = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
STARS = ("<fim_prefix>", "<fim_suffix>", "<fim_middle>")
PIECES = ("▁<PRE>", "▁<SUF>", "▁<MID>")
DEEPSEEK = ("<\uff5cfim▁begin\uff5c>", "<\uff5cfim▁hole\uff5c>", "<\uff5cfim▁end\uff5c>")
FAMILIES = {
    "qwen": (*PIPES, "<|repo_name|>", "<|file_sep|>", "<|fim_pad|>", "<|endoftext|>"),
    "granite4": (*PIPES, "<|reponame|>", "<|filename|>"),
    "pocket": PIPES,
    "starcoder2": (*STARS, "<repo_name>", "<file_sep>", "<fim_pad>"),
    "starcoder": (*STARS, "<reponame>", "<filename>"),
    "codellama": ("<PRE>", "<SUF>", "<MID>", "<EOT>"),
    "pieces": (*PIECES, "▁<EOT>"),
    "deepseek": DEEPSEEK,
    "codestral": ("[SUFFIX]", "[PREFIX]"),
    "none": (),
}
BEFORE, AFTER = "def f():\n", "\n    return x\n"
ASKED = FillPrompt(BEFORE, AFTER, "    x = ")
FILES = (File("a.py", "A = 1\n"), File("b.py", "B = 2"))

PLAIN = {  # family: in PSM, in SPM
    "qwen": "<|fim_prefix|>{b}<|fim_suffix|>{a}<|fim_middle|>{x}",
    "starcoder2": "<fim_prefix>{b}<fim_suffix>{a}<fim_middle>{x}",
    "codellama": "<PRE>{b}<SUF>{a}<MID>{x}",
    "deepseek": "<\uff5cfim▁begin\uff5c>{b}<\uff5cfim▁hole\uff5c>{a}<\uff5cfim▁end\uff5c>{x}",
}
SUFFIX_FIRST = {
    "qwen": "<|fim_prefix|><|fim_suffix|>{a}<|fim_middle|>{b}{x}",
    "starcoder2": "<fim_prefix><fim_suffix>{a}<fim_middle>{b}{x}",
    "codellama": "<PRE><SUF>{a}<MID>{b}{x}",
    "deepseek": "<\uff5cfim▁begin\uff5c><\uff5cfim▁hole\uff5c>{a}<\uff5cfim▁end\uff5c>{b}{x}",
    "codestral": "[SUFFIX]{a}[PREFIX]{b}{x}",
}
OTHERS = {
    "qwen": (
        "<|repo_name|>repository\n<|file_sep|>a.py\nA = 1\n<|file_sep|>b.py\nB = 2\n"
        "<|file_sep|>c.py\n<|fim_prefix|>{b}<|fim_suffix|>{a}<|fim_middle|>{x}"
    ),
    "granite4": (
        "<|reponame|>repository\n<|filename|>a.py\nA = 1\n<|filename|>b.py\nB = 2\n"
        "<|filename|>c.py\n<|fim_prefix|>{b}<|fim_suffix|>{a}<|fim_middle|>{x}"
    ),
    "starcoder2": (
        "<repo_name>repository<file_sep>a.py\nA = 1\n<file_sep>b.py\nB = 2\n"
        "<file_sep><fim_prefix>c.py\n{b}<fim_suffix>{a}<fim_middle>{x}"
    ),
    "starcoder": (
        "<reponame>repository<filename>a.py\nA = 1\n<filename>b.py\nB = 2\n"
        "<filename><fim_prefix>c.py\n{b}<fim_suffix>{a}<fim_middle>{x}"
    ),
    "deepseek": (
        "<\uff5cfim▁begin\uff5c># a.py\nA = 1\n# b.py\nB = 2\n# c.py\n{b}"
        "<\uff5cfim▁hole\uff5c>{a}<\uff5cfim▁end\uff5c>{x}"
    ),
    "codestral": "[SUFFIX]{a}[PREFIX]# a.py\nA = 1\n# b.py\nB = 2\n# c.py\n{b}{x}",
}


@cache
def tokenizer_of(family: str) -> PreTrainedTokenizerFast:
    """Make a tokenizer of single characters with a family's tokens; `pieces` prepends a space."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({char: place for place, char in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    if family == "pieces":
        tokens = ["▁", *map(chr, range(33, 127)), *(f"<0x{byte:02X}>" for byte in range(256))]
        model = models.BPE(
            {token: place for place, token in enumerate(tokens)}, [], byte_fallback=True
        )
        backend = Tokenizer(model)
        prepend = [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        backend.normalizer = normalizers.Sequence(prepend)
        strip = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        backend.decoder = decoders.Sequence(strip)
    added = [AddedToken(token, normalized=False, special=True) for token in FAMILIES[family]]
    backend.add_special_tokens(added)
    return PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=False)


def encoder_of(family: str, limit: int = 4096) -> Encoder:
    tokenizer = tokenizer_of(family)
    return Encoder(tokenizer, Vocabulary(tokenizer, len(tokenizer)), limit)


def text_of(family: str, encoded: Encoded) -> str:
    return str(tokenizer_of(family).decode(list(encoded.ids), skip_special_tokens=False))


def control_of(family: str) -> set[int]:
    """Return the ids of a family's tokens."""
    vocabulary = tokenizer_of(family).get_vocab()
    return {vocabulary[token] for token in FAMILIES[family]}


def wanted(form: str) -> str:
    return form.format(b=BEFORE, a=AFTER, x="    x = ")


def asked(prompt: FillPrompt = ASKED, order: FillOrder | None = None) -> FillPrompt:
    return FillPrompt(
        prompt.prefix, prompt.suffix, prompt.begun, prompt.files, prompt.name, order=order
    )


@pytest.mark.parametrize("family", PLAIN)
def test_the_prefix_first(family: str) -> None:
    for order in (None, "psm"):
        encoded = encoder_of(family).encode(asked(order=order))
        assert text_of(family, encoded) == wanted(PLAIN[family])


@pytest.mark.parametrize("family", SUFFIX_FIRST)
def test_the_suffix_first(family: str) -> None:
    assert text_of(family, encoder_of(family).encode(asked(order="spm"))) == wanted(
        SUFFIX_FIRST[family]
    )


def test_a_model_that_knows_the_suffix_first_alone() -> None:
    encoder = encoder_of("codestral")
    assert text_of("codestral", encoder.encode(asked())) == wanted(SUFFIX_FIRST["codestral"])
    with pytest.raises(PlanError, match="fim must be spm"):
        encoder.encode(asked(order="psm"))


@pytest.mark.parametrize("family", OTHERS)
def test_other_files_stand_before(family: str) -> None:
    prompt = FillPrompt(BEFORE, AFTER, "    x = ", FILES, "c.py")
    assert text_of(family, encoder_of(family).encode(prompt)) == wanted(OTHERS[family])


@pytest.mark.parametrize("family", ["qwen", "codestral"])
def test_the_file_before_the_cursor_alone_needs_no_name(family: str) -> None:
    named = FillPrompt("b", "a", name="c.py", repository="r")
    bare = text_of(family, encoder_of(family).encode(FillPrompt("b", "a")))
    assert "c.py" in text_of(family, encoder_of(family).encode(named))
    assert "filename" not in bare and "repository" not in bare


def test_no_space_is_put_into_a_text_that_goes_on() -> None:
    """CodeLlama: its tokenizer puts a space before each text; the suffix goes on where it was."""
    tokenizer = tokenizer_of("pieces")
    ids = encoder_of("pieces").encode(FillPrompt("ab", "cd", "e")).ids
    names = tokenizer.convert_ids_to_tokens(list(ids))
    assert names == ["▁<PRE>", "▁", "a", "b", "▁<SUF>", "c", "d", "▁<MID>", "e"]
    ids = encoder_of("pieces").encode(FillPrompt("ab", "cd", "e", order="spm")).ids
    names = tokenizer.convert_ids_to_tokens(list(ids))
    assert names == ["▁<PRE>", "▁<SUF>", "c", "d", "▁<MID>", "▁", "a", "b", "e"]


@pytest.mark.parametrize("family", [*PLAIN, "codestral", "pieces"])
def test_what_an_editor_sends_is_literal(family: str) -> None:
    tokens = FAMILIES[family]
    text = "".join(f"x{token}" for token in tokens)
    prompt = FillPrompt(text, text, text, (File(text, text),), text)
    encoded = encoder_of(family).encode(prompt)
    own = encoder_of(family).encode(FillPrompt("x", "x", "x", (File("x", "x"),), "x"))
    control = control_of(family)
    assert [each for each in encoded.ids if each in control] == [
        each for each in own.ids if each in control
    ]


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "none"])
def test_its_tokens_end_an_answer(family: str) -> None:
    ends = encoder_of(family).encode(asked()).ends
    assert ends == control_of(family)
    suffix = TextPrompt((Part("a"),), "b")
    assert encoder_of(family).encode(suffix).ends == ends


def test_a_suffix_in_another_order() -> None:
    prompt = TextPrompt((Part("b"),), "a", "spm")
    text = text_of("qwen", encoder_of("qwen").encode(prompt))
    assert text == "<|fim_prefix|><|fim_suffix|>a<|fim_middle|>b"


def test_it_needs_such_tokens_and_reads_no_set() -> None:
    with pytest.raises(PlanError, match="fill-in-the-middle"):
        encoder_of("none").encode(asked())
    with pytest.raises(PlanError, match="suffix cannot go with a reading stage"):
        encoder_of("qwen").encode(asked(), "set")


def test_the_tokens_that_a_file_names_count() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of("starcoder2").backend_tokenizer, fim_tokens=list("[]|")
    )
    encoder = Encoder(tokenizer, Vocabulary(tokenizer, len(tokenizer)), 99)
    assert tokenizer.decode(list(encoder.encode(FillPrompt("b", "a")).ids)) == "[b]a|"


def test_what_does_not_fit_is_left_out_and_told_the_oldest_files_first() -> None:
    files = tuple(File(f"{number}.py", "x" * 50) for number in range(4))
    encoder = encoder_of("qwen", 256)
    encoded = encoder.encode(FillPrompt("p" * 40, "s" * 20, files=files))
    text = text_of("qwen", encoded)
    assert encoded.left_out == {"files": 2}
    assert "2.py" in text and "3.py" in text and "1.py" not in text
    encoded = encoder.encode(FillPrompt("p" * 999, "s" * 999, "begun", files, room=100))
    text = text_of("qwen", encoded)
    assert text.endswith("<|fim_middle|>begun")
    kept = re.search("<.fim_prefix.>(p+)<.fim_suffix.>(s+)<", text)
    assert kept is not None
    prefix, suffix = (999 - len(each) for each in kept.groups())
    assert encoded.left_out == {"files": 4, "prefix_tokens": prefix, "suffix_tokens": suffix}


def test_text_without_end_is_cut_before_it_is_tokenised() -> None:
    encoded = encoder_of("qwen", 256).encode(FillPrompt("p" * 9_000_000, "s" * 9_000_000))
    assert len(encoded.ids) <= 224
    assert encoded.left_out["prefix_tokens"] > 500_000


def test_no_room_at_all() -> None:
    with pytest.raises(PlanError, match="maximum context length is 64") as caught:
        encoder_of("qwen", 64).encode(FillPrompt("a", "b", room=62))
    assert caught.value.code == "context_length_exceeded"


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 700), st.integers(0, 400), st.integers(0, 100), st.integers(0, 100))
def test_a_prompt_always_leaves_its_room(before: int, after: int, begun: int, room: int) -> None:
    files = (File("a.py", "x" * 70), File("b.py", "y" * 7))
    prompt = FillPrompt("p" * before, "s" * after, "m" * begun, files, room=room)
    encoded = encoder_of("qwen", 300).encode(prompt)
    assert len(encoded.ids) <= 300 - room
    text, left_out = text_of("qwen", encoded), encoded.left_out
    prefix = "p" * (before - left_out.get("prefix_tokens", 0))
    suffix = "s" * (after - left_out.get("suffix_tokens", 0))
    assert text.endswith(f"<|fim_prefix|>{prefix}<|fim_suffix|>{suffix}<|fim_middle|>{'m' * begun}")
    if left_out.keys() - {"files"}:  # no more than two steps of 1/16 are wasted
        assert len(encoded.ids) > 300 - max(room, 300 // 8) - 2 * 18


def test_typing_seldom_moves_what_is_cut() -> None:
    encoder = encoder_of("qwen", 512)
    typed = [encoder.encode(FillPrompt("p" * 900 + "t" * n, "s" * 50)) for n in range(32)]
    assert len({each.left_out["prefix_tokens"] for each in typed}) <= 2
