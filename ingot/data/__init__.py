"""From rows to the dataset: layouts, cleaning, near duplicates, sampling, the split, the report."""
