"""Why bits are equal: files written whole or not at all, pinned settings, arithmetic that every CPU does alike."""
