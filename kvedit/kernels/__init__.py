"""How the linear layers of a model multiply on a CPU, chosen once, at load, by measurement.

stock     torch's own product
unpacked  oneDNN's, on weights as they are
packed    oneDNN's, on weights in its own order, and a loop on the same ones for a few rows

A model's weights are held once: packed ones take the place of those that were loaded.
"""
