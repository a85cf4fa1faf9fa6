"""Adapters to other frameworks, a file or folder each. An adapter imports its framework when it is used."""
