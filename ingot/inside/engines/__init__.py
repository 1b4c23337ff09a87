"""What trains. An engine is a module with `model(job)`: peft.py or unsloth.py, as platform.lock says; training.py runs it."""
