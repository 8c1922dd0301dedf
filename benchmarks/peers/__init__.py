"""Other libraries' EM, each in its own environment and its own process.

``environments`` makes the environments, ``client`` starts a worker and talks to it, ``worker`` is
the worker's side of the talk; the rest is one module per library.
"""
