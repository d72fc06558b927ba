"""Wire formats, pure: where texts live, when an answer is whole, what it consumed."""
