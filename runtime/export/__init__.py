"""Explanations taken to where they run: servers, browsers."""
