"""PPO: rewards of tokens, the critic, the clip, samples of another program."""
