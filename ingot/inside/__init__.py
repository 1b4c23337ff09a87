"""Inside the seal: what the stages share. Never imports docker or dvc."""
