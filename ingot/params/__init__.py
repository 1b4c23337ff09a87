"""params.yaml, typed: one module per section, so that a stage depends on its own section's module and no other.

`ingot.params.core` loads single keys for stages; `ingot.params.every` knows all sections and validates the whole file.
`memory` and `platform` say what they ask of the machine that trains.
"""
