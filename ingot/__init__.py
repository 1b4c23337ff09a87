"""Ingot: raw data in, a fine-tuned GGUF out, rebuilt bit for bit by anybody.

Two wings that never mix: `ingot.inside` runs within the seal (what stages share; never imports docker or dvc) and
`ingot.outside` drives the stages from the host (never imports torch). Only `ingot.params` and `ingot.artifact` serve both.
"""
