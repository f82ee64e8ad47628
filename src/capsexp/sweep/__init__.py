"""From a command to its cells: a sweep's plan, and what runs it.

``cells`` gives one cell its config and id, ``names`` folders their names, ``grid`` finds the cells of a command,
``plan`` freezes them in the sweep's folder before the first one runs, ``rerun`` says which ended ones run again,
``provenance`` what they were launched with.  ``run`` hands the plan to the engine or to another launcher, ``job`` runs
one cell in the command's own process, ``closing`` says how the sweep stands in the end.  ``estimate`` and ``preview``
are what ``python -m capsexp.plan`` shows.
"""
