"""Sweeps: the plan of a command's cells, and its execution.

``cells`` computes the config and id of a cell, ``names`` the names of folders, ``grid`` the cells of a command.
``plan`` freezes them in the sweep's folder before the first cell runs, ``rerun`` selects the ended cells that run
again, ``provenance`` records the versions at launch.  ``run`` passes the plan to the engine or to another launcher,
``job`` runs one cell in the command's own process, ``search`` runs a search by Optuna, ``closing`` prints the final
state of the sweep.  ``estimate`` and ``preview`` make the output of ``python -m capsexp.plan``.
"""
