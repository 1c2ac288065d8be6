"""What a trial has shown: its figures, on a terminal, in JSON, on a page."""
