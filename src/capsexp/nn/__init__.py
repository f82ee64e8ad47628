"""Building blocks of capsule networks: squash, votes, capsule layers, decoder."""
