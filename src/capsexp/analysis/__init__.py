"""Tables, figures and one page from a sweep's folder: ``python -m capsexp.report multirun/cnn_prune``.

Only files are read, through :mod:`capsexp.records`; nothing of the training code is imported.  Written into
``<sweep>/report/``:

=========================== =========================================================================================
file                        content
=========================== =========================================================================================
``index.html``              the whole report on one page, figures embedded, readable without any other file
``results.csv .md .tex``    one row for each point of the sweep: n, mean and sample standard deviation over seeds
``comparison.csv .md .tex`` our numbers beside the paper's, with the difference and what limits the comparison
``<grid>.csv .md .tex``     a table of the paper beside ours, for each item under ``grids``
``cells.csv .md .tex``      one row for each cell: its state and its values, nothing averaged
``timings.csv .md .tex``    everything measured with a clock, and only that
``<figure>.png .pdf``       the figures that the ``report:`` block asks for, or the default one
``<figure>_beside.png ...`` its surfaces beside those of another sweep, where ``--beside`` names one
=========================== =========================================================================================

The same results give the same bytes in every file but ``timings.*``.  What a report shows is decided by the
experiment's ``report:`` block, described in :mod:`capsexp.analysis.spec`; of what it does not name, the axes, the
standard metrics and a figure over the axes are shown (:mod:`capsexp.analysis.defaults`).

``spec`` has the models of the block (``validation`` makes one-line errors of theirs), which ``defaults`` fills;
``results`` reads the folder into ``cells`` and knows nothing of the block.  ``compare``, ``tables``, ``paper_tables``
and ``warnings`` join the two into text (``formats`` writes it as CSV, Markdown and LaTeX), ``panels`` and ``drawing``
into pictures, ``page`` (with ``learning_curves``) puts all on one page, and ``write`` runs everything.

The package ``figures`` has a module for each kind of figure: its keys, and the drawing of it.  ``history`` reads
epochs, ``arrays`` chooses a cell, reads its arrays and checks them, ``single_run`` draws them.  ``beside`` brings the
surfaces of two sweeps together, which ``figures.side_by_side`` draws.  Functions called ``draw_*`` take plain arrays
and the words around a picture, so they draw for others too.  All use its ``style`` and ``ticks``.

The package ``comparison`` puts several sweeps on one page.
"""
