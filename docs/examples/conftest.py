"""Tests of the examples use the fixtures of the package."""

pytest_plugins = ["rayforce_trio.pytest_plugin"]
