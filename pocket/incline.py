"""Initial values for judging: heads of a trained reader, set from linear probes of what it knows.

A verdict is put together in three steps, in the layers above the two that read:

carry  layer 2: every token of an answer looks back for the answer's letter
check  layer 3: a value looks for a place where the reader, one token before, expected this value
pick   layer 4: the end of the prompt looks for a value that was found, and copies its letter

A model of this size does not come upon such a chain by itself: no part is worth anything without
the others. The check needs no comparison of names, since reading does that: in "Answer A: The city
of Mira is Oslo." the reader expects a city before it stands there, the one that the text told.
"""

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pocket import data
from pocket.words import ATTRIBUTES

CARRY, CHECK, PICK = 2, 3, 4  # layers
NEAR = (4, 5, 6)  # rotary pairs that tell the nearest letter from the one before it
AHEAD = 6.0  # tokens; the distance to its letter that a carrying head likes best
SLOW = 9  # rotary pairs from here on turn too slowly to matter over a contest
EXAMPLES = 600  # contests that the probes are fitted to
SPOT = 3.0  # score of the place before an answer's value
SAME = 8.0  # score of an expected value that is the value looked for, over another one
CONTRAST = 20.0  # weight of the tokens that a probe is about, over the others


@dataclass(frozen=True)
class Marked:
    """Contests, padded on the right, with what a probe should say of each token.

    ids     [batch, kv] int64
    letter  [batch, kv] int64  which letter this is, or has the answer that the token stands in;
                               -1 outside the answers
    label   [batch, kv] bool   the token is the letter of an answer
    value   [batch, kv] bool   the token is the value of an answer
    right   [batch, kv] bool   and the answer is right
    real    [batch, kv] bool   the token is no padding
    """

    ids: Tensor
    letter: Tensor
    label: Tensor
    value: Tensor
    right: Tensor
    real: Tensor


class Heads:
    """A key-value group of a layer and its two query heads, set to zero to be written anew.

    queries, keys, values, outputs    views of the weights
    query_bias, key_bias              views of the biases
    """

    def __init__(self, model: LlamaForCausalLM, layer: int, group: int) -> None:
        attention = model.model.layers[layer].self_attn
        width = attention.head_dim
        one = slice(width * group, width * (group + 1))
        two = slice(2 * width * group, 2 * width * (group + 1))
        self.queries = attention.q_proj.weight[two]
        self.query_bias = attention.q_proj.bias[two]
        self.keys, self.key_bias = attention.k_proj.weight[one], attention.k_proj.bias[one]
        self.values, value_bias = attention.v_proj.weight[one], attention.v_proj.bias[one]
        self.outputs = attention.o_proj.weight[:, two]
        self.starts = (0, width)  # where the rows of each query head begin
        for view in (self.queries, self.query_bias, self.keys, self.key_bias, self.values):
            view.zero_()
        value_bias.zero_()
        self.outputs.zero_()


def mark(tokenizer: PreTrainedTokenizerFast, contests: list[tuple[data.Contest, str]]) -> Marked:
    """Render contests, each with the letters of its slots."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
        return ids

    values = {encode(word)[0] for attribute in ATTRIBUTES for word in attribute.values}
    nothing = (-1, False, False, False)
    rows: list[list[tuple[int, int, bool, bool, bool]]] = []
    for contest, letters in contests:
        head = data.judge_head(contest.question, contest.reference)
        row = [(token, *nothing) for token in encode(f"<|bos|><|user|>\n{head}")]
        for text, right, letter in zip(contest.candidates, contest.right, letters, strict=False):
            index = data.LABELS.index(letter)
            row += [(token, *nothing) for token in encode("Answer ")]
            row.append((encode(letter)[0], index, True, False, False))
            for token in encode(f": {text}\n"):
                row.append((token, index, False, token in values, right and token in values))
        end = encode(f"{data.JUDGE_ORDER}<|end|>\n<|assistant|>\n")
        rows.append([*row, *((token, *nothing) for token in end)])
    longest, pad = max(map(len, rows)), tokenizer.pad_token_id
    filled = [row + [(pad, *nothing)] * (longest - len(row)) for row in rows]
    columns = [torch.tensor([[item[part] for item in row] for row in filled]) for part in range(5)]
    ids, *rest = columns
    return Marked(ids, rest[0], rest[1], rest[2], rest[3], ids != pad)


def entering(model: LlamaForCausalLM, layer: int, ids: Tensor) -> tuple[Tensor, float]:
    """Give what a layer's attention reads, [batch, kv, hidden], and the norm of its residual."""
    caught: list[Tensor] = []
    norms: list[float] = []

    def catch(_: torch.nn.Module, given: tuple[Tensor, ...], normed: Tensor) -> None:
        norms.append(float(given[0].norm(dim=-1).mean()))
        caught.append(normed)

    handle = model.model.layers[layer].input_layernorm.register_forward_hook(catch)
    model.model(input_ids=ids, use_cache=False)
    handle.remove()
    return caught[0], norms[0]


def probe(states: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Fit a ridge regression without a constant: [targets, hidden]."""
    states, targets = states.double(), targets.double()
    if weights is not None:
        root = weights.double().sqrt()[:, None]
        states, targets = states * root, targets * root
    penalty = 3e-5 * len(states) * torch.eye(states.shape[1], dtype=torch.float64)
    fitted: Tensor = torch.linalg.solve(states.T @ states + penalty, states.T @ targets).T.float()
    return fitted


@torch.no_grad()
def incline_to_judge(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    random: Random,
    count: int = EXAMPLES,
) -> None:
    """Write the heads of `carry`, `check` and `pick` over what training left in their places.

    Reading stays as it is: it does not use these heads.

    count  contests that the probes are fitted to
    """
    letters = [tokenizer.encode(letter, add_special_tokens=False)[0] for letter in data.LABELS]
    examples = []
    for _ in range(count):
        size = random.choice((2, 2, 2, 3, 4))
        contest = data.facts_contest(random, size, 0.4, tie=0.1, hard=0.5)
        examples.append((contest, "".join(random.sample(data.LABELS, 4))))
    marked = mark(tokenizer, examples)
    torch.manual_seed(int(random.random() * 2**31))
    spell(model, letters)
    carry(model, marked)
    check(model, tokenizer, marked)
    reading = [data.sample(random, 6, 0.0) for _ in range(40)]
    texts = ["".join(piece.text for piece in pieces) for pieces in reading]
    others = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    pick(model, letters, marked, others)


def spell(model: LlamaForCausalLM, letters: list[int]) -> None:
    """Draw the embeddings of the letters anew: after the first phase all of them look alike."""
    table = model.model.embed_tokens.weight
    typical = float(table.norm(dim=1).median())
    fresh = normalize(torch.randn(len(letters), table.shape[1]), dim=1)
    common = normalize(table[letters[:5]].mean(0), dim=0)
    table[letters] = typical * (0.5 * common + fresh)


def carry(model: LlamaForCausalLM, marked: Marked) -> None:
    """Write a head that attends to the nearest letter behind "Answer" and passes it on."""
    states, norm = entering(model, CARRY, marked.ids)
    real, count = marked.real, len(data.LABELS)
    which = torch.zeros(*marked.ids.shape, count)
    which[marked.label] = one_hot(marked.letter[marked.label], count).float()
    heads = Heads(model, CARRY, group=1)
    width, half = heads.starts[1], heads.starts[1] // 2
    is_label = probe(states[real], marked.label[real].float()[:, None])[0]
    angles = model.model.rotary_emb.inv_freq
    for pair in NEAR:
        heads.keys[pair] = is_label * 6
        for start in heads.starts:
            heads.query_bias[start + pair] = 10 * torch.cos(-AHEAD * angles[pair])
            heads.query_bias[start + pair + half] = 10 * torch.sin(-AHEAD * angles[pair])
    heads.values[:count] = probe(states[real], which[real], 1 + CONTRAST * marked.label[real])
    space = torch.linalg.qr(torch.randn(states.shape[-1], width))[0]
    heads.outputs[:, :width] = space * norm * 0.6


def check(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, marked: Marked) -> None:
    """Write heads by which an answer's value finds the places where it was expected."""
    states, norm = entering(model, CHECK, marked.ids)
    rows, places = marked.value.nonzero(as_tuple=True)
    words = marked.ids[rows, places]
    # The right value of each contest, at each of its answers; -1 where no answer is right.
    truths = torch.full((len(marked.ids),), -1)
    found, column = marked.right.nonzero(as_tuple=True)
    truths[found] = marked.ids[found, column]
    truth = truths[rows]
    own, told = states[rows, places].double(), states[rows, places - 1].double()
    by_own, by_told = canonical(tokenizer, own, told, words, truth, states[marked.real].double())
    before = torch.zeros(marked.ids.shape)
    before[rows, places - 1] = 1.0
    spot = probe(states[marked.real], before[marked.real][:, None])[0]
    decided, same = truth >= 0, words == truth
    for group in (0, 1):
        heads = Heads(model, CHECK, group)
        width, half = heads.starts[1], heads.starts[1] // 2
        slow = torch.arange(SLOW, half - 1)
        dims = torch.cat([slow, slow + half])
        shared = slice(group, 2 * len(dims), 2)  # both groups get good and less good directions
        query, key = by_own[shared], by_told[shared]
        dots = (((own - own.mean(0)) @ query.T) * ((told - told.mean(0)) @ key.T)).sum(1)
        gap = float(dots[same & decided].mean() - dots[~same & decided].mean())
        sharp = (SAME / gap * width**0.5) ** 0.5
        query, key = (sharp * query).float(), (sharp * key).float()
        heads.keys[dims], heads.key_bias[dims] = key, -key @ told.mean(0).float()
        heads.keys[half - 1] = spot
        for start in heads.starts:
            heads.queries[start + dims] = query
            heads.query_bias[start + dims] = -query @ own.mean(0).float()
            heads.query_bias[start + half - 1] = SPOT * width**0.5
        heads.values[0] = spot
        sign = normalize(torch.randn(states.shape[-1], 1), dim=0)
        heads.outputs[:, :1] = sign * norm * 0.6


def canonical(
    tokenizer: PreTrainedTokenizerFast,
    own: Tensor,
    told: Tensor,
    words: Tensor,
    truth: Tensor,
    every: Tensor,
) -> tuple[Tensor, Tensor]:
    """Find directions in which a value and the expectation of it look alike.

    A canonical correlation analysis of the state before an answer's value, which expects the true
    one, with the mean state of that value itself. Kinds of facts (cities, jobs) tell nothing within
    a contest, and other tokens must stay near zero, so both count as noise.

    own     [answers, hidden]  states of the values
    told    [answers, hidden]  states one token before
    words   [answers]          ids of the values
    truth   [answers]          ids of the right values, -1 for none
    every   [tokens, hidden]   states of all tokens
    returns (for own, for told) [hidden, hidden], a direction a row, the best first
    """
    kinds = torch.zeros(len(tokenizer), dtype=torch.long)
    for index, attribute in enumerate(ATTRIBUTES):
        for value in attribute.values:
            kinds[tokenizer.encode(value, add_special_tokens=False)[0]] = index
    kind = one_hot(kinds[words], len(ATTRIBUTES)).double()
    share = (kind / kind.sum(0)).T
    every = every - every.mean(0)
    noise = every.T @ every / len(every)

    def whiten(states: Tensor) -> tuple[Tensor, Tensor]:
        centres = share @ states
        pure, spread = states - kind @ centres, centres - centres.mean(0)
        spread = spread.T @ spread / len(ATTRIBUTES)
        ridge = 1e-4 * torch.eye(states.shape[1], dtype=torch.float64)
        covariance = pure.T @ pure / len(pure) + 0.1 * noise + spread + ridge
        values, vectors = torch.linalg.eigh(covariance)
        return pure, vectors / values.sqrt()

    pure_own, white_own = whiten(own)
    pure_told, white_told = whiten(told)
    means = torch.zeros(len(tokenizer), own.shape[1], dtype=torch.float64)
    means.index_add_(0, words, pure_own)
    means /= words.bincount(minlength=len(tokenizer))[:, None].clamp(1)
    decided = truth >= 0
    cross = (pure_told[decided] @ white_told).T @ (means[truth[decided]] @ white_own)
    left, _, right = torch.linalg.svd(cross / decided.sum())
    return (white_own @ right.T).T, (white_told @ left).T


def pick(
    model: LlamaForCausalLM, letters: list[int], marked: Marked, others: list[list[int]]
) -> None:
    """Write a head that attends, from the end of a judge prompt, to a right value for its letter.

    others  sequences of other kinds, where the head shall be silent
    """
    states, norm = entering(model, PICK, marked.ids)
    real, count = marked.real, len(letters)
    which = torch.zeros(*marked.ids.shape, count)
    which[marked.value] = one_hot(marked.letter[marked.value], count).float()
    ends = torch.zeros(marked.ids.shape)
    ends[torch.arange(len(ends)), real.sum(1) - 1] = 1.0
    silent = [entering(model, PICK, torch.tensor([ids]))[0][0] for ids in others]
    both = torch.cat([states[real], *silent])
    wanted = torch.cat([ends[real], torch.zeros(len(both) - int(real.sum()))])
    heads = Heads(model, PICK, group=0)
    half = heads.starts[1] // 2
    found = probe(states[real], marked.right[real].float()[:, None])[0]
    heads.keys[half - 1] = 9 * found * 3
    for start in heads.starts:
        heads.queries[start + half - 1] = 9 * probe(both, wanted[:, None])[0]
    heads.values[:count] = probe(states[real], which[real], 1 + CONTRAST * marked.value[real])
    rows = model.model.embed_tokens.weight[letters]
    heads.outputs[:, :count] = normalize(rows - rows.mean(0), dim=1).T * norm * 1.5
