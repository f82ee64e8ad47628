"""The progress of a sweep in the terminal: ``python -m capsexp.status multirun/cnn_prune``.

Only files are read, through :mod:`capsexp.records`, and nothing is written.  The states of cells are those of the
report; the report's ``missing`` (planned, but without a status) counts as ``pending`` here.  Only the standard library
is imported, so that a thousand cells are shown within a second.

The modules: ``read`` takes a snapshot of the folder; ``facts`` computes counts, times and lists; ``heatmap`` draws the
swept axes, with ``squares`` for the digits, marks and colours; ``text`` formats everything as lines.
"""
