"""llama.cpp inside a stage: convert, quantise, load; checks of GGUF files."""
