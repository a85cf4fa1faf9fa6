"""Sinks: where entities go. Each file appears whole or not at all."""
