"""Runs the cells of a sweep, several at once, and loses none.

An engine takes cells and tells a :class:`~capsexp.engine.base.Watcher` what becomes of them; ``local`` is the one that
runs them in worker processes of this machine.  The rooms: ``options`` is what a user may say and what follows from it,
``base`` the interface, ``places`` which cell may start where, ``local`` the loop, ``crew`` the processes behind it,
``worker`` what runs inside them, ``signals`` how a user stops it, ``progress`` what people see.
"""
