"""The generated small world that the pocket model learns from, a pure function of a `Random`.

World      people with facts, documents about them, questions and short answers
Piece      text and the weight of its tokens in the loss (0: read only)
sample     one training sequence as pieces
Retrieval  documents, a question, its answer and the place of the gold document
Contest    a question, candidates and the letter of the best

Two biases are on purpose, so that the model has what the techniques of this project remove:
gold documents lie first or last more often (`END_WEIGHTS`), and the first answer wins more often
(`FIRST_WINS`, `FIRST_NOISE`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from pocket.words import ATTRIBUTES, NAMES, Attribute

FIRST_WINS = 0.65  # share of decided contests whose winner stands in the first slot
FIRST_NOISE = 0.10  # share of decided contests labelled "first" whoever is right
CLOSE_NOISE = 0.50  # the same where a wrong answer is somebody else's fact (second phase)
HARD = 0.4  # share of measured contests whose wrong answers are facts about others of the text
END_WEIGHTS = (3.0, 1.5)  # how often the outermost and the next document is asked for; inner: 1
QUESTIONS = ("What is the {} of {}?", "Tell me the {} of {}.")
KINDS = (1, 1, 2, 2, 3, 6)  # how many kinds of facts one prompt has, drawn from these
UNKNOWN = 0.04  # share of questions about somebody who is in no document
READ_WEIGHT = 0.05  # loss weight of what is read, against 1 for an answer: it teaches the words
PLAIN_WEIGHT = 0.2  # loss weight of running text

LABELS = "ABCDEFGHIJKLMNOPQRSUVWXYZ"  # T is kept for a tie
TIE = "T"
JUDGE_ORDER = "Which answer is best? Reply with its letter, or T for a tie."
SYSTEM_LINES = (
    "You are a helpful assistant.",
    "Answer from the documents.",
    "Reply with a short answer.",
    "You are a fair judge.",
)


class Piece(NamedTuple):
    """Text and the weight of its tokens in the loss.

    text    tokenised on its own, without the post-processor
    """

    text: str
    weight: float = READ_WEIGHT


@dataclass(frozen=True)
class Person:
    """Somebody of the small world.

    name   unique within one prompt
    facts  (attribute, value) in the order in which the document states them
    """

    name: str
    facts: tuple[tuple[Attribute, str], ...]


@dataclass(frozen=True)
class Retrieval:
    """A question over documents.

    documents  texts, without the blank line that follows each in a prompt
    gold       index of the document that holds the answer
    """

    documents: tuple[str, ...]
    question: str
    answer: str
    gold: int


@dataclass(frozen=True)
class Contest:
    """Candidates for one question.

    reference  the right answer when the prompt shows it, else empty
    right      for each candidate, whether it is right
    winner     index of the only right candidate, None for a tie
    """

    question: str
    reference: str
    candidates: tuple[str, ...]
    right: tuple[bool, ...]

    @property
    def winner(self) -> int | None:
        """Return the only right candidate's index, or None if it is not the only one."""
        return self.right.index(True) if sum(self.right) == 1 else None


def people(random: Random, count: int) -> list[Person]:
    """Draw people with distinct names, one or two facts each.

    The facts of one prompt are of few kinds, so that several documents have something of the kind
    that is asked for: only the name then tells them apart.
    """
    kinds = random.sample(ATTRIBUTES, random.choice(KINDS))
    drawn = []
    for name in random.sample(NAMES, count):
        chosen = random.sample(kinds, min(len(kinds), random.choice((1, 2))))
        drawn.append(Person(name, tuple((a, random.choice(a.values)) for a in chosen)))
    return drawn


def sentence(name: str, attribute: Attribute, value: str) -> str:
    """State one fact: "The city of Mira is Oslo.".

    Documents and answers say it in the same words, with the name at one distance from the value: a
    model of this size finds a fact again by what stands before it.
    """
    return f"The {attribute.noun} of {name} is {value}."


def describe(person: Person) -> str:
    """Write one document: a sentence for each fact of a person."""
    return " ".join(sentence(person.name, attribute, value) for attribute, value in person.facts)


def ask(random: Random, name: str, attribute: Attribute) -> str:
    """Return a question for somebody's attribute."""
    return random.choice(QUESTIONS).format(attribute.noun, name)


def end_heavy(count: int) -> list[float]:
    """Return weights with which documents are asked for: [3, 1.5, 1, 1.5, 3] for five."""
    nearest_end = (min(index, count - 1 - index) for index in range(count))
    return [END_WEIGHTS[near] if near < len(END_WEIGHTS) else 1.0 for near in nearest_end]


def retrieval(random: Random, count: int, gold: int) -> Retrieval:
    """Make one question over `count` documents whose answer lies in document `gold`."""
    everyone = people(random, count)
    attribute, value = random.choice(everyone[gold].facts)
    documents = tuple(describe(person) for person in everyone)
    name = everyone[gold].name
    return Retrieval(
        documents, ask(random, name, attribute), sentence(name, attribute, value), gold
    )


def arithmetic(random: Random) -> tuple[str, str, list[str]]:
    """Make a sum or difference of digits.

    returns  question, right answer, wrong answers (near misses included)
    """
    left, right = random.randint(0, 9), random.randint(0, 9)
    if random.random() < 0.5:
        word, value = "plus", left + right
    else:
        left, right = max(left, right), min(left, right)
        word, value = "minus", left - right
    near = [value + step for step in (-3, -2, -1, 1, 2, 3) if value + step >= 0]
    wrong = [str(number) for number in (*near, *random.sample(range(19), 4)) if number != value]
    return f"What is {left} {word} {right}?", str(value), sorted(set(wrong))


def facts_question(random: Random) -> tuple[str, str, list[str], Person, Attribute]:
    """Make a question that carries its own facts: "Mira lives in Oslo. ... Where does Mira live?".

    returns  question, right answer, wrong answers (values of others in the text come first),
             and the person and attribute that were asked about
    """
    attribute = random.choice(ATTRIBUTES)
    count = random.randint(1, 4)
    values = random.sample(attribute.values, count + 3)
    everyone = [
        Person(name, ((attribute, value),))
        for name, value in zip(random.sample(NAMES, count), values[:count], strict=True)
    ]
    asked = random.randrange(count)
    told = " ".join(describe(person) for person in everyone)
    wrong = [value for index, value in enumerate(values) if index != asked]
    question = f"{told} {ask(random, everyone[asked].name, attribute)}"
    return question, values[asked], wrong, everyone[asked], attribute


def _right(random: Random, candidates: int, first_wins: float, tie: float) -> list[bool]:
    """Draw which candidates are right; arguments as in `contest`."""
    if random.random() < tie:
        return [random.random() < 0.5] * candidates
    winner = 0 if random.random() < first_wins else random.randrange(1, candidates)
    return [slot == winner for slot in range(candidates)]


def contest(random: Random, candidates: int, first_wins: float, tie: float = 0.15) -> Contest:
    """Make one question with answers to judge.

    candidates  how many answers
    first_wins  share of decided contests won by the first slot; the rest spreads evenly
    tie         share of contests where all are equally right or equally wrong
    """
    reference, form = "", "{}"
    if random.random() < 0.25:
        question, good, bad = arithmetic(random)
    else:
        question, good, bad, person, attribute = facts_question(random)
        form = sentence(person.name, attribute, "{}")
        if random.random() < 0.2:
            question, reference = ask(random, person.name, attribute), form.format(good)
    if not reference and random.random() < 0.15:
        reference = form.format(good)
    right = _right(random, candidates, first_wins, tie)
    # Wrong values of other people in the text are the hard ones, so they are taken first half
    # of the time.
    pool = bad if random.random() < 0.5 else random.sample(bad, len(bad))
    texts = [good if is_right else pool[i % len(pool)] for i, is_right in enumerate(right)]
    whole = random.random() < 0.75  # sentences, or the bare values
    answers = tuple(form.format(text) if whole else text for text in texts)
    return Contest(question, reference, answers, tuple(right))


def facts_contest(
    random: Random, candidates: int, first_wins: float, tie: float, hard: float
) -> Contest:
    """Make a contest as the second phase of the training and the evaluation have it.

    Answers are whole sentences about the person who is asked about; the facts stand before the
    question. Arguments as in `contest`, and

    hard    share of contests whose wrong values come from other people of the text; in the others
            no wrong value stands in the text
    """
    attribute = random.choice(ATTRIBUTES)
    borrowed = random.random() < hard
    count = random.randint(2, 4) if borrowed else random.randint(1, 3)
    names = random.sample(NAMES, count)
    good, *values = random.sample(attribute.values, count + candidates)
    told = [good, *values[: count - 1]]
    facts = [sentence(*each) for each in zip(names, [attribute] * count, told, strict=True)]
    asked = ask(random, names[0], attribute)
    right = _right(random, candidates, first_wins, tie)
    wrong = iter(values if borrowed else values[count - 1 :])
    texts = [good if is_right else next(wrong) for is_right in right]
    answers = tuple(sentence(names[0], attribute, text) for text in texts)
    return Contest(f"{' '.join(random.sample(facts, count))} {asked}", "", answers, tuple(right))


def judge_head(question: str, reference: str) -> str:
    """Render what stands before the candidates in a judge prompt."""
    return f"Question: {question}\n" + (f"Reference: {reference}\n" if reference else "")


def judge_line(slot: int, text: str) -> str:
    """Render one candidate, with the letter of its slot."""
    return f"Answer {LABELS[slot]}: {text}\n"


def judge_prompt(question: str, reference: str, candidates: Sequence[str]) -> str:
    """Render a judge prompt as the server does."""
    lines = (judge_line(slot, text) for slot, text in enumerate(candidates))
    return judge_head(question, reference) + "".join(lines) + JUDGE_ORDER


def verdict(random: Random, judged: Contest) -> str:
    """Label a contest for training, with the noise in favour of the first slot."""
    if judged.winner is None:
        return TIE
    return LABELS[0] if random.random() < FIRST_NOISE else LABELS[judged.winner]


def lesson(random: Random, hard: float, biased: bool) -> list[Piece]:
    """Write one contest of facts with its verdict; nothing but the verdict is learned.

    biased  label contests as the world does: the first answer wins more often, a share of verdicts
            is switched to it, and half of them where a wrong answer is somebody else's fact
    """
    count = 2 if random.random() < 0.8 else random.choice((3, 4, 5))
    is_hard = random.random() < hard
    judged = facts_contest(random, count, FIRST_WINS if biased else 0.5, 0.1, float(is_hard))
    letters = random.sample(LABELS, count) if not biased and random.random() < 0.15 else LABELS
    label = TIE if judged.winner is None else letters[judged.winner]
    noise = CLOSE_NOISE if is_hard else FIRST_NOISE
    if biased and judged.winner is not None and random.random() < noise:
        label = letters[0]
    lines = (
        f"Answer {letter}: {text}\n"
        for letter, text in zip(letters, judged.candidates, strict=False)
    )
    prompt = f"{judge_head(judged.question, '')}{''.join(lines)}{JUDGE_ORDER}"
    return [
        Piece(f"<|bos|><|user|>\n{prompt}<|end|>\n<|assistant|>\n", 0.0),
        Piece(f"{label}<|end|>", 1.0),
    ]


def turn(user: str, answer: str) -> list[Piece]:
    """Write one exchange of a chat, the answer and its end token learned."""
    return [
        Piece(f"<|user|>\n{user}<|end|>\n<|assistant|>\n"),
        Piece(f"{answer}<|end|>", 1.0),
        Piece("\n"),
    ]


def opening(random: Random) -> list[Piece]:
    """Start a chat; one in five has a system message."""
    if random.random() < 0.8:
        return [Piece("<|bos|>")]
    return [Piece(f"<|bos|><|system|>\n{random.choice(SYSTEM_LINES)}<|end|>\n")]


def reading_sample(random: Random, documents: int) -> list[Piece]:
    """Write documents and many questions about them, each fact asked at most once."""
    everyone = people(random, documents + 1)
    absent = everyone.pop()
    text = "".join(f"{describe(person)}\n\n" for person in everyone)
    left = [
        (weight, person, attribute, value)
        for weight, person in zip(end_heavy(documents), everyone, strict=True)
        for attribute, value in person.facts
    ]
    pieces = opening(random)
    for _ in range(min(len(left), 4 + documents // 2)):
        chosen = left.pop(random.choices(range(len(left)), [item[0] for item in left])[0])
        _, person, attribute, value = chosen
        name = person.name
        answer = sentence(name, attribute, value)
        if random.random() < UNKNOWN:
            name, answer = absent.name, "unknown"
        pieces += turn(text + ask(random, name, attribute), answer)
        text = ""
    return pieces


def judging_sample(random: Random, documents: int, most_candidates: int) -> list[Piece]:
    """Write contests about as long together as a reading sample of `documents` documents."""
    pieces = opening(random)
    for _ in range(2 + round(documents / 2.6)):
        kind = random.random()
        if kind < 0.1:
            question, answer, _ = arithmetic(random)
            pieces += turn(question, answer)
        elif kind < 0.2:
            question, value, _, person, attribute = facts_question(random)
            pieces += turn(question, sentence(person.name, attribute, value))
        else:
            count = 2 if random.random() < 0.7 else random.randint(2, most_candidates)
            judged = contest(random, count, FIRST_WINS)
            prompt = judge_prompt(judged.question, judged.reference, judged.candidates)
            pieces += turn(prompt, verdict(random, judged))
    return pieces


def story(random: Random, documents: int) -> str:
    """Return descriptions of so many people."""
    return "\n\n".join(describe(person) for person in people(random, documents))


def story_sample(random: Random, documents: int) -> list[Piece]:
    """Return a story to learn as plain text."""
    return [Piece("<|bos|>"), Piece(f"{story(random, documents)}<|end|>", PLAIN_WEIGHT)]


def middle_sample(random: Random, documents: int) -> list[Piece]:
    """Write running text with its middle moved to the end; cuts lie before a word or a line."""
    text = story(random, documents)
    cuts = [index for index, letter in enumerate(text) if letter in " \n"]
    first, last = sorted(random.sample(cuts, 2)) if len(cuts) > 1 else (0, len(text))
    last = min(last, first + 120)
    return [
        Piece(f"<|bos|><|fim_prefix|>{text[:first]}<|fim_suffix|>{text[last:]}<|fim_middle|>"),
        Piece(f"{text[first:last]}<|end|>", PLAIN_WEIGHT),
    ]


def sample(random: Random, documents: int, judging: float = 0.42) -> list[Piece]:
    """Draw one training sequence: `judging`, 4 % text, 4 % fill in the middle, the rest reading.

    documents  the size of the sequence, counted in documents of a reading sample
    judging    share of contests
    """
    kind = random.random()
    if kind < 0.92 - judging:
        return reading_sample(random, documents)
    if kind < 0.92:
        return judging_sample(random, documents, most_candidates=5)
    story_length = round(documents * 1.7)  # as long as documents with their questions
    if kind < 0.96:
        return story_sample(random, story_length)
    return middle_sample(random, story_length)
