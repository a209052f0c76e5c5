"""Real models of all six types on this machine, each in a process of its own."""
