"""The law: attention scores depend on distance alone, so keys stay and queries turn.

Axes, used everywhere: `batch, heads, kv_heads, query, kv, dim, layers, documents`. Tensors are
`[batch, heads, query, dim]` for queries and outputs, `[batch, kv_heads, kv, dim]` for keys and
values. Positions and lengths count tokens; angles are radians; logarithms are natural.
"""
