"""What a user reads: messages of faults, bounds on what comes from outside, progress of a stage."""
