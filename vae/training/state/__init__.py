"""What the next step of a run follows from, and how it is saved and taken up again."""
