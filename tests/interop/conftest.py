"""What of these tests is run only when asked for."""

collect_ignore = ["foreign"]  # needs programs beyond Python's: `nox -s interop` provides them
