"""The cone of a window: only what a change of some pixels reaches is computed again."""
