"""The Modelfile, Ollama, chat, the model card."""
