"""The conclusions of a paper, checked against results: ``python -m capsexp.claims wang``.

``conf/claims/<name>.yaml`` lists the conclusions as statements, each with the rule that decides it
(:mod:`capsexp.analysis.claims.paper` describes the file).  The numbers come from ``cells.csv`` alone, as
``capsexp.report`` writes it, so that tables which are kept can be judged again without their sweeps.

A verdict belongs to a **protocol**: the cells that share their data set and the split on which their models were
chosen.  Numbers of different protocols are never mixed.
"""
