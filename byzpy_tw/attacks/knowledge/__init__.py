"""The knowledge of an attack: its levels, its view of the honest vectors, and its encoding."""
