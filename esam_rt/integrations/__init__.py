"""Adapters to other frameworks, one file each. A framework is imported when its adapter is used."""
