"""Golden tests: what an earlier commit computed, said and wrote, kept in files; see README.md."""
