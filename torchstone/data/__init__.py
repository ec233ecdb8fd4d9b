"""What is learned from: the built-in tasks, and files of one's own."""
