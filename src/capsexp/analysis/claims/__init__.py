"""What a paper concludes, checked against results: ``python -m capsexp.claims wang``.

``conf/claims/<name>.yaml`` lists the conclusions as statements, each with the rule that decides it
(:mod:`capsexp.analysis.claims.schema` describes the file).  The numbers come from ``cells.csv`` alone, as
``capsexp.report`` writes it, so that tables which are kept can be judged again without the sweeps behind them.

A verdict belongs to a **body of evidence**: the cells that share their data set and the split on which their models
were chosen.  Numbers of different bodies are never mixed.

The rooms: ``table`` reads one ``cells.csv``; ``gathering`` sorts the cells of all tables into bodies of ``evidence``,
which averages over seeds; ``measures`` is the arithmetic (rank correlation, intervals).  ``flat``, ``trend``, ``gap``,
``paired``, ``rank`` and ``robust_area`` are the kinds of claims (with ``quantity`` and ``pairs``): each checks its keys
and judges one body, and its docstring is its rule.  ``finding`` is what they give, ``learning`` what unfinished
trainings leave of it, ``labels`` the words for columns and places.  ``schema`` checks the file, ``sources`` finds the
tables, ``judging`` puts every claim to every body, ``page`` writes the Markdown.
"""
