"""Recorded conversations of released versions, and the tests that later versions still understand them."""
