"""Models from outside: what is in their files, and whether it is what their config.json asks for."""
