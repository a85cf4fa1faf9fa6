"""Adapters to other frameworks, one file each. An adapter imports its framework when it is used."""
