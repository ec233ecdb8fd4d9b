"""What the families share: which tokens count, log-probs, KL, means."""
