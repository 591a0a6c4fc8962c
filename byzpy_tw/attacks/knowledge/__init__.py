"""The knowledge of an attack: its levels, its view of the honest vectors, and its encoding."""

from byzpy_tw.attacks.knowledge.view import Knowledge

__all__ = ["Knowledge"]
