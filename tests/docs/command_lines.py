"""Checks a command line of esam-rt without running it."""

from __future__ import annotations

from typing import Any

import typer.main

from esam_rt.cli.app import app


def check_command_line(words: list[str]) -> None:
    """Check that the command and its options exist.

    Args:
        words: The words after ``esam-rt``.
    """
    words = list(words)
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):  # a group
        known = command.commands
        assert words[0] in known, f"esam-rt has no command {words[0]}"
        command = known[words.pop(0)]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word.partition("=")[0] for word in words if word.startswith("--")}
    assert used <= options | {"--help"}
