"""``llamaherd plan``: what a converge would do, fetch and compile, without doing it."""
