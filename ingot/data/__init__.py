"""From raw rows to conversations: layouts of columns, what they mean, cleaning, what is not read."""
