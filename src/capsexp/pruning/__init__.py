"""Which channels of a layer go (criteria), how many, and how a smaller model is made of the rest."""
