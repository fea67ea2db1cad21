"""What workers do: one job from its claim to its end, and the worker itself."""
