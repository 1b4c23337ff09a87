"""What a build will be: the whole of params.yaml, recipes, and what both ask of disk, memory, time and money."""
