"""params.yaml: loading a section, typed, with all faults reported at once."""
