"""What runs outside the seal: the command line, checks before a run, what is kept and restored around it."""
