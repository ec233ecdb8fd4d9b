"""What a run leaves on the disk: its folder, and the checkpoints that it goes on from."""
