"""Ingot: raw data in, a fine-tuned GGUF out, rebuilt bit for bit by anybody.

A folder is a room: what one subject needs, said in its first line. Rooms stand above what they import:
exact, console, params; sources, llama, chat; data, model, mixing, training; serving, proof; sealing, planning, host.
The last three, `serving.ollama` and `sources.pinning` run outside the seal and never import torch; what runs inside
never imports docker or dvc.
"""
