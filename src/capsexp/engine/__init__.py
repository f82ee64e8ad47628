"""Runs the cells of a sweep, several at once, and loses none.

An engine takes groups of cells and tells a :class:`~capsexp.engine.base.Listener` what becomes of them.  The rooms:
``options`` is what a user may say and what follows from it, ``base`` the interfaces, ``devices`` which group may start
where, ``queue`` what waits and what runs, ``loop`` the loop over it, ``policy`` what becomes of cells, ``signals`` how
a user stops it, ``progress`` what people see.  The loop starts workers from a backend: ``local`` has the processes of
this machine (``pool``), ``ray`` actors of a cluster; ``worker`` is what runs inside them.
"""
