"""prime-rl: its unit, what it cannot run, and a row of the table as its custom loss."""
