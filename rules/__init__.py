"""Rules, readouts and the table of methods. Imports the rewriter only."""
