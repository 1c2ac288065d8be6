"""The judge's arithmetic: verdicts, orders and agreement. No model, no torch."""
