"""Whether the file keeps what was trained: ledger, answers, score."""
