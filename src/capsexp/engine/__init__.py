"""Engines, which run several cells of a sweep in parallel.

An engine takes groups of cells and reports their outcomes to a :class:`~capsexp.engine.base.Listener`.  The modules:
``options`` has the launcher's settings and the layout that follows from them, ``base`` the interfaces, ``devices`` the
assignment of groups to devices, ``queue`` the waiting and running groups, ``scheduler`` the main loop, ``retry_policy``
the decision which cells are retried, ``signals`` the handling of Ctrl-C and SIGTERM, ``progress`` the output for the
user.  The scheduler gets workers from a backend: ``local`` starts processes on this machine, ``ray`` starts actors in a
cluster (``ray_cluster``, ``ray_workers``).  ``worker`` is the code that runs inside a worker.
"""
