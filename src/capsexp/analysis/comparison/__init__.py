"""Several sweeps on one page: ``python -m capsexp.report multirun/one multirun/two``.

``joined`` makes the sweeps one, with ``configs`` for the axes that a sweep fixed; ``paired`` has the statistics of
paired differences as functions of a table; ``leaderboard``, ``differences`` and ``paired_tables`` make the tables,
``figures`` the pictures, and ``page`` runs everything.  Written into ``<first sweep>/comparison/``:

============================= =======================================================================================
file                          content
============================= =======================================================================================
``index.html``                the whole comparison on one page, readable without any other file
``leaderboard.csv .md .tex``  the points of all sweeps in order of a metric, ranked apart for each protocol
``differences.csv .md .tex``  the keys of the configs in which the sweeps differ
``environments.csv ...``      the versions and machines in which they differ
``paired.csv .md .tex``       differences of the metrics between two sweeps at equal points and seeds, with intervals
``paired_points.csv ...``     the same at each point
``<figure>.png .pdf``         the figures of the first sweep's block, over all sweeps
============================= =======================================================================================

A table without rows is not written.
"""
