"""From conversations to the dataset: near duplicates, mix, split, and the report of it."""
