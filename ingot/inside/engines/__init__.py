"""What trains: one module an engine, each with `train(job) -> Result`. `adapter.engine` names the module."""
