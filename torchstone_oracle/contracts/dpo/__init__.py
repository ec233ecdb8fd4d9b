"""Learning from pairs, reward models, fine-tuning."""
