"""What several objectives share: flags, steps, inputs, and cases."""
