"""Taking a policy elsewhere: as a folder, to a hub, as a file of llama.cpp."""
