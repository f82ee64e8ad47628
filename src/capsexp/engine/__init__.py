"""Runs the cells of a sweep, several at once, and loses none.

An engine takes lots of cells and tells a :class:`~capsexp.engine.base.Watcher` what becomes of them.  The rooms:
``options`` is what a user may say and what follows from it, ``base`` the interfaces, ``places`` which lot may start
where, ``queue`` what waits and what runs, ``loop`` the loop over it, ``fates`` what becomes of cells, ``signals`` how
a user stops it, ``progress`` what people see.  The loop hires workers from a staff: ``local`` has the processes of
this machine (``crew``), ``ray`` actors of a cluster; ``worker`` is what runs inside them.
"""
