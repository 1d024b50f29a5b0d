"""One module per question; each function makes one sample on a stage of its own and returns it."""
