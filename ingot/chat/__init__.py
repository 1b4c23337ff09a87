"""Conversations as text and tokens: templates, the mask of trained tokens, and that all renderers agree."""
