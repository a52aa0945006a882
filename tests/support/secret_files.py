"""Files that contain a secret."""

from pathlib import Path


def secret_file(directory: Path, text: str, *, name: str = "secret", mode: int = 0o600) -> str:
    """Write a file that only its owner can read by default; return its name."""
    path = directory / name
    path.touch(mode=0o600)
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return str(path)
