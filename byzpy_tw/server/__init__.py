"""The server: hosts nodes for trainers."""
