"""Outside the seal: what drives the stages from the host. Never imports torch."""
