"""What stages run in: llama.cpp as it is built, the image, the seal around each stage."""
