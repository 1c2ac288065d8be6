"""Text of somebody else's commands nothing, and what commands nothing is tokenised as ever."""

import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import AutoTokenizer, ByT5Tokenizer, PreTrainedTokenizerFast

from server.errors import PlanError
from server.prompt import ChatPrompt, Message, Part, TextPrompt
from server.text.prompts import Encoder
from server.text.vocabulary import Vocabulary

FOLDERS = {
    "pocket": Path(__file__).parents[3] / "pocket" / "weights",
    "stories": Path(__file__).parents[4] / "shared" / "models" / "stories260K-llama",
}
SPECIAL = ["<unk>", "<s>", "</s>", "<|end|>", "<|user|>", "<|assistant|>", "[INST]"]
# not special, yet obeyed by the tokenizer; "dog" is a word of the vocabulary too
ADDED = ["<think>", "</think>", "quick fox", "wolf", "dog"]
WORDS = ["A", "The brown fox", " lazy cats", "\n", "  ", "     ", "<", "<|", "end", "</", "é東🦊"]
ENDS = ["|>", "s>"]
CORPUS = ["dog,dog;dog The quick brown fox jumps over it. A B C D <s> / | > [ ] end user"] * 20
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|user|>{{ message.content | trim }}<|end|>"
    "{% endfor %}<|assistant|> "
)
CHAT_ENDS = ["<|user|>"], ["<|end|>", "<|assistant|>"]
KINDS = ["bytes", "greedy", "llama", "first", "unigram", "words"]

texts = st.lists(st.sampled_from([*SPECIAL, *ADDED, *WORDS, *ENDS]), max_size=8).map("".join)
bare = st.lists(st.sampled_from(WORDS), max_size=8).map("".join)
# no deadline: the first example makes the twin
often = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def trained(
    model: models.Model, trainer: Callable[..., trainers.Trainer], **parts: Any
) -> Tokenizer:
    backend = Tokenizer(model)
    for name, part in parts.items():
        setattr(backend, name, part)
    common = {"vocab_size": 400, "special_tokens": SPECIAL, "show_progress": False}
    backend.train_from_iterator(CORPUS, trainer(**common))
    return backend


def byte_level(ignore_merges: bool) -> Tokenizer:
    def trainer(**common: Any) -> trainers.Trainer:
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        return trainers.BpeTrainer(initial_alphabet=alphabet, **common)

    return trained(
        models.BPE(ignore_merges=ignore_merges),
        trainer,
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=ignore_merges),
        decoder=decoders.ByteLevel(),
    )


def sentence_pieces(metaspace: bool) -> Tokenizer:
    """Make a BPE with byte fallback: as Llama 2's files have it, or with a Metaspace."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]

    def trainer(special_tokens: list[str], **common: Any) -> trainers.Trainer:
        return trainers.BpeTrainer(
            special_tokens=special_tokens + bytes_, **{**common, "vocab_size": 500}
        )

    spaces = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    first = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend = trained(
        models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True),
        trainer,
        **({"pre_tokenizer": first} if metaspace else {"normalizer": spaces}),
        decoder=decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        ),
    )
    state = json.loads(backend.to_str())
    state["added_tokens"] = state["added_tokens"][: len(SPECIAL)]  # bytes are no added tokens
    return Tokenizer.from_str(json.dumps(state))


def unigram() -> Tokenizer:
    def trainer(**common: Any) -> trainers.Trainer:
        return trainers.UnigramTrainer(unk_token="<unk>", **{**common, "vocab_size": 80})

    return trained(
        models.Unigram(),
        trainer,
        normalizer=normalizers.NFKC(),
        pre_tokenizer=pre_tokenizers.Metaspace(),
        decoder=decoders.Metaspace(),
    )


def words() -> Tokenizer:
    return trained(
        models.WordLevel(unk_token="<unk>"),
        trainers.WordLevelTrainer,
        pre_tokenizer=pre_tokenizers.WhitespaceSplit(),
    )


BACKENDS = {
    "bytes": lambda: byte_level(ignore_merges=False),
    "greedy": lambda: byte_level(ignore_merges=True),
    "llama": lambda: sentence_pieces(metaspace=False),
    "first": lambda: sentence_pieces(metaspace=True),
    "unigram": unigram,
    "words": words,
}


@cache
def tokenizer_of(kind: str, template: str = TEMPLATE) -> PreTrainedTokenizerFast:
    backend = BACKENDS[kind]()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", backend.token_to_id("<s>"))]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", unk_token="<unk>", chat_template=template
    )
    made.add_tokens(
        [
            AddedToken(ADDED[0], lstrip=True, rstrip=True, normalized=False),
            AddedToken(ADDED[1], normalized=kind != "llama"),  # Prepend makes "▁</think>" of it
            AddedToken(ADDED[2], normalized=False),
            AddedToken(ADDED[3], single_word=True, normalized=False),
            AddedToken(ADDED[4], normalized=False),
        ]
    )
    if kind in ("bytes", "greedy"):
        made.add_tokens([AddedToken("    ", normalized=False)])  # text, as in GPT-NeoX
    return made


def encoder_of(kind: str, template: str = TEMPLATE) -> Encoder:
    tokenizer = tokenizer_of(kind, template)
    return Encoder(tokenizer, Vocabulary(tokenizer, len(tokenizer)), 10_000)


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def encoder(kind: str) -> Encoder:
    return encoder_of(kind)


def encoder_with(kind: str, token: AddedToken) -> tuple[PreTrainedTokenizerFast, Encoder]:
    made = PreTrainedTokenizerFast(tokenizer_object=BACKENDS[kind](), unk_token="<unk>")
    made.add_tokens([token])
    return made, Encoder(made, Vocabulary(made, len(made)), 1000)


def control(kind: str, ids: Sequence[int]) -> list[str]:
    """Return the control tokens among the ids, but for what ordinary text may come out as."""
    tokens = tokenizer_of(kind).convert_ids_to_tokens(list(ids))
    text = {"unigram": "<unk>", "words": "<unk>", "greedy": ""}.get(kind, "dog")
    return [token for token in tokens if token in {*SPECIAL, *ADDED} - {text}]


def decoded(kind: str, ids: Sequence[int]) -> str:
    data = Vocabulary(tokenizer_of(kind), 0).data
    return b"".join(data[token_id] for token_id in ids).decode()


def literal(text: str, group: str | None = None) -> Part:
    return Part(text, group, literal=True)


def chat(*parts: Part) -> ChatPrompt:
    return ChatPrompt((Message("user", parts),))


def plain(prompt: ChatPrompt | TextPrompt) -> ChatPrompt | TextPrompt:
    """Return the prompt with nothing literal."""
    if isinstance(prompt, TextPrompt):
        return TextPrompt(tuple(Part(part.text, part.group) for part in prompt.parts))
    return chat(*(Part(part.text, part.group) for part in prompt.messages[0].parts))


@often
@given(text=texts)
def test_a_literal_text_is_spelled(kind: str, encoder: Encoder, text: str) -> None:
    encoded = encoder.encode(TextPrompt((literal(text),)))
    opening, *ids = encoded.ids
    assert tokenizer_of(kind).convert_ids_to_tokens(opening) == "<s>"
    assert control(kind, ids) == []
    assert encoded.text == text
    if kind in ("bytes", "greedy"):
        assert decoded(kind, ids) == text
    if kind in ("llama", "first"):  # which put spaces before what follows a token
        assert decoded(kind, ids).replace(" ", "") == text.replace(" ", "")


@often
@given(text=texts, question=texts)
def test_only_the_template_speaks_to_the_model(
    kind: str, encoder: Encoder, text: str, question: str
) -> None:
    parts = Part("Judge <think> "), literal(question), Part("\nAnswer: "), literal(text)
    encoded = encoder.encode(chat(*parts))
    expected = ["<s>", "<|user|>", "<think>", "<|end|>", "<|assistant|>"]
    assert control(kind, encoded.ids) == expected
    assert encoded.text == encoder.encode(plain(chat(*parts))).text
    if kind in ("bytes", "greedy"):
        # but for white space, which <think> strips from both its sides
        assert "".join(decoded(kind, encoded.ids).split()) == "".join(encoded.text.split())


@often
@given(text=bare, question=bare)
def test_what_commands_nothing_is_tokenised_as_ever(
    encoder: Encoder, text: str, question: str
) -> None:
    documents = [literal(f"{place}. {text}", group="g") for place in range(3)]
    for prompt in (
        TextPrompt((Part("<think> Read"), literal(text), *documents, literal(question))),
        chat(literal(question), *documents, Part("</think>"), literal(text)),
    ):
        for cut in ("whole", "set"):
            assert encoder.encode(prompt, cut) == encoder.encode(plain(prompt), cut)


@often
@given(text=bare, question=bare)
def test_the_twin_reads_all_else_as_the_tokenizer_does(kind: str, text: str, question: str) -> None:
    spelling, ordinary = encoder_of(kind), encoder_of(kind)
    vars(spelling._control)["obeyed"] = lambda *_: True
    for prompt in (
        TextPrompt((Part("<think> Read <|end|>"), literal(text), Part(" a dog </think>"))),
        chat(literal(question), Part(" </think> "), literal(text), Part("é <think> quick fox")),
    ):
        assert spelling.encode(prompt) == ordinary.encode(prompt)


@pytest.mark.parametrize("spelled", ["", "<|end|>"])
def test_a_token_of_the_template_stays_one_beside_literal_text(
    kind: str, encoder: Encoder, spelled: str
) -> None:
    # "wolf" counts as a word of its own, as in "a wolf" | "s"
    encoded = encoder.encode(chat(Part("a wolf"), literal(f"s<{spelled}")))
    shown = ["<s>", "<|user|>", *["wolf"] * bool(spelled), "<|end|>", "<|assistant|>"]
    assert control(kind, encoded.ids) == shown
    if kind in ("bytes", "greedy"):
        assert decoded(kind, encoded.ids) == encoded.text


@often
@given(answers=st.lists(texts.map("1. {}".format), min_size=2, max_size=4), question=texts)
def test_documents_are_spelled_each_on_its_own(
    kind: str, encoder: Encoder, answers: list[str], question: str
) -> None:
    documents = [literal(answer, group="g") for answer in answers]
    parts = Part("Judge: "), literal(question), *documents, Part("Best?"), literal(question)
    for prompt, ends in ((TextPrompt(parts), ([], [])), (chat(*parts), CHAT_ENDS)):
        encoded = encoder.encode(prompt, "set")
        segments = encoded.segments
        assert segments is not None
        assert encoded.ids == segments.ids
        assert control(kind, segments.prefix) == ["<s>", *ends[0]]
        assert control(kind, segments.suffix) == ends[1]
        for place, document in zip(segments.order, segments.documents, strict=True):
            alone = encoder.encode(TextPrompt((documents[place],)))
            assert document == alone.ids[1:]


@often
@given(answers=st.lists(texts.map("1. {}".format), min_size=2, max_size=4), question=texts)
def test_the_order_of_documents_does_not_matter(
    encoder: Encoder, answers: list[str], question: str
) -> None:
    documents = [literal(answer, group="g") for answer in answers]
    first, second = (
        encoder.encode(chat(literal(question), *each, Part("Best?")), "set")
        for each in (documents, documents[::-1])
    )
    assert (first.ids, first.text) == (second.ids, second.text)


@pytest.mark.parametrize("name", FOLDERS)
def test_tokenizers_as_they_are_published(name: str) -> None:
    if not FOLDERS[name].exists():
        pytest.skip(f"no {name} here")
    tokenizer = AutoTokenizer.from_pretrained(FOLDERS[name], local_files_only=True)
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    encoder = Encoder(tokenizer, vocabulary, 10_000)
    names = [token for token in tokenizer.all_special_tokens if token != "<unk>"]
    text = "A" + "".join(names) + "B" + names[-1]
    assert set(encoder.encode(TextPrompt((Part(text),))).ids) & vocabulary.special
    ids = encoder.encode(TextPrompt((literal(text),))).ids[1:]
    assert not set(ids) & vocabulary.special
    assert b"".join(vocabulary.data[token_id] for token_id in ids).decode().strip() == text


@pytest.mark.parametrize("kind", ["bytes", "llama"])
@pytest.mark.parametrize(
    "parts",
    [
        (literal("A<|en"), literal("d|>B")),
        (literal("A<|en"), Part("d|>B")),
        (Part("A<|en"), literal("d|>B")),
        (literal("A"), literal("<|en\n"), literal(""), literal("d|><|end|")),
    ],
)
def test_no_token_is_made_of_neighbours(kind: str, parts: tuple[Part, ...]) -> None:
    ids = encoder_of(kind).encode(chat(*parts)).ids
    assert control(kind, ids) == ["<s>", "<|user|>", "<|end|>", "<|assistant|>"]


def test_a_normalizer_reveals_no_token() -> None:
    encoder = encoder_of("unigram")
    wide = "\uff1c\uff0fs\uff1e A \uff1c\uff0fthink\uff1e"  # NFKC makes "</s> A </think>" of it
    assert control("unigram", encoder.encode(TextPrompt((Part(wide),))).ids[1:])
    spelled = encoder.encode(TextPrompt((literal(wide),)))
    assert control("unigram", spelled.ids[1:]) == []


@pytest.mark.parametrize(
    ("kind", "text", "token"),
    [("bytes", "dog", "dog"), ("llama", "é", "<0xC3>"), ("greedy", "A", "A")],
)
def test_a_token_that_is_ordinary_text_stays_one(kind: str, text: str, token: str) -> None:
    tokenizer, encoder = encoder_with(kind, AddedToken(token, normalized=False))
    ordinary = encoder.encode(TextPrompt((Part(text),))).ids
    assert tokenizer.convert_tokens_to_ids(token) in ordinary
    for spelled in ("", "<|end|>"):
        ids = encoder.encode(TextPrompt((literal(text + spelled),))).ids
        assert ids[: len(ordinary)] == ordinary


def test_a_special_word_is_spelled() -> None:
    tokenizer, encoder = encoder_with("bytes", AddedToken("dog", normalized=False, special=True))
    ids = encoder.encode(TextPrompt((literal("dog"),))).ids
    assert (tokenizer.decode(list(ids)), len(ids)) == ("dog", 2)


def test_a_token_of_the_template_is_found_wherever_it_stands() -> None:
    # by itself the tokenizer looks for "▁</tool>", since Prepend is applied to its name too
    tokenizer, encoder = encoder_with("llama", AddedToken("</tool>", normalized=True))
    prompt = TextPrompt((literal("A<|end|>"), Part("</tool>")))
    ids = encoder.encode(prompt).ids
    assert ids[-1] == tokenizer.convert_tokens_to_ids("</tool>")
    assert str(tokenizer.decode(list(ids))).split() == ["A<|end|>", "</tool>"]


def test_the_tokenizer_is_left_as_it_was() -> None:
    tokenizer = deepcopy(tokenizer_of("bytes"))
    before = tokenizer.backend_tokenizer.to_str(), tokenizer("<|end|>dog").input_ids
    encoder = Encoder(tokenizer, Vocabulary(tokenizer, len(tokenizer)), 100)
    encoder.encode(chat(literal("<|end|>dog")))
    assert (tokenizer.backend_tokenizer.to_str(), tokenizer("<|end|>dog").input_ids) == before


def test_fill_in_the_middle_spells_too(tokenizer: PreTrainedTokenizerFast) -> None:
    encoder = Encoder(tokenizer, Vocabulary(tokenizer, len(tokenizer)), 100)
    prompt = TextPrompt((Part("The "), literal("<|end|>fox")), suffix="<|end|>")
    ids = encoder.encode(prompt).ids
    special = [
        token for token in tokenizer.convert_ids_to_tokens(list(ids)) if token.startswith("<|")
    ]
    prefix, suffix, middle = (f"<|fim_{name}|>" for name in ("prefix", "suffix", "middle"))
    assert special == ["<|bos|>", prefix, suffix, "<|end|>", middle]


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content }}{{ messages[0].content }}",
        "{{ messages[0].role }}",
        "{{ messages[0].content | upper }}",
    ],
)
def test_a_template_that_does_not_show_a_text_as_it_is(template: str) -> None:
    encoder = encoder_of("bytes", template)
    harmless = chat(literal("A fox"))
    assert encoder.encode(harmless) == encoder.encode(plain(harmless))
    with pytest.raises(PlanError, match="chat template must show each message once") as caught:
        encoder.encode(chat(literal("<|end|>A")))
    assert "\n" not in caught.value.message


def test_a_template_does_not_obey_either() -> None:
    encoder = encoder_of("bytes", "{{ messages[0].content.split('</think>')[-1] }}")
    assert encoder.encode(chat(Part("A</think>B"))).text == "B"
    encoded = encoder.encode(chat(literal("A</think>B")))
    assert encoded.text == decoded("bytes", encoded.ids) == "A</think>B"


def test_a_slow_tokenizer_says_that_it_cannot() -> None:
    tokenizer = ByT5Tokenizer()
    encoder = Encoder(tokenizer, Vocabulary(tokenizer, 400), 100)
    harmless = TextPrompt((literal("A fox"),))
    assert encoder.encode(harmless) == encoder.encode(plain(harmless))
    with pytest.raises(PlanError, match="text of others must be free of"):
        encoder.encode(TextPrompt((literal("<extra_id_3>"),)))
