"""The kinds of files that images come from, a module each, all giving the same splits."""
