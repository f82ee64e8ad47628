"""Images: where they come from, how they are divided, and how they reach the training step."""
