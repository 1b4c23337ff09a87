"""What runs outside the seal: the command line, the DAG, the image and the seal, the build of llama.cpp."""
