"""Training an adapter: methods, engines, checkpoints, memory and platform."""
