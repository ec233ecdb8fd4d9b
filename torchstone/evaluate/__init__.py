"""Looking at what was learned: runs side by side, their tables and pictures."""
