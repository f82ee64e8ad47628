"""Tests of capsexp, laid out like the package."""

import os

# Before numpy and torch are there, which read it then: as many threads as cores would wait for each other's turns, and
# two processes of tests share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
