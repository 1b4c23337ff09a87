"""What trains. An engine is a module with `begin`, `model`, `fell_back` and `LOSS`: peft.py or unsloth.py, as platform.lock
says; training.py runs it.
"""
