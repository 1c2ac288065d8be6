"""The commands of `evenhand` that judge; what they need is imported when they run."""
