"""REINFORCE: returns, baselines, the loss."""
