"""Configured ways out, who serves what, and which to ask next."""
