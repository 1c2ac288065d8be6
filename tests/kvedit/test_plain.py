import torch
from oracles import Rotary, causal_attention

from kvedit.plain import Plain
from kvedit.reading import Layer
from kvedit.rotary import RotaryGeometry

INV_FREQ = 10000.0 ** (-torch.arange(0, 8, 2).float() / 8)


def test_plain_in_pieces_equals_the_oracle_at_once() -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 4, 9, 8, generator=generator)
    key, value = (torch.randn(1, 2, 9, 8, generator=generator) for _ in range(2))
    expected = causal_attention(query[0], key[0], value[0], Rotary(INV_FREQ), 0.3)
    reading, layer = Plain(), Layer(0, RotaryGeometry(INV_FREQ), 0.3)
    pieces = [
        reading.read(layer, *(t[:, :, rows] for t in (query, key, value)))
        for rows in (slice(0, 5), slice(5, 8), slice(8, 9))
    ]
    torch.testing.assert_close(torch.cat(pieces, 2)[0].double(), expected, atol=1e-5, rtol=0)


def test_layers_do_not_share_their_caches() -> None:
    x = torch.randn(1, 1, 1, 8, generator=torch.Generator().manual_seed(1))
    reading, geometry = Plain(), RotaryGeometry(INV_FREQ)
    first = reading.read(Layer(0, geometry, 1.0), x, x, x)
    second = reading.read(Layer(1, geometry, 1.0), x, x, -x)
    torch.testing.assert_close(first, -second)
