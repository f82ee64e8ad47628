"""How far a sweep is, in the terminal: ``python -m capsexp.status multirun/cnn_prune``.

Only files are read, through :mod:`capsexp.records`, and nothing is ever written.  A cell is in the same state here as
in the report; what the report calls ``missing`` (planned, and no status yet) counts as ``pending`` here.  Nothing but
the standard library is imported, so that a thousand cells are shown within a second.

The rooms: ``read`` takes a snapshot of the folder; ``facts`` makes counts, times and lists of it; ``heatmap`` draws the
swept axes, with ``squares`` for the digits, marks and colours; ``text`` puts all into lines.
"""
