"""A model's folder: checks of a base, its weights, the tiny base, folding an adapter in."""
