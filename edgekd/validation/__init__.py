"""Checks that an exported model does what the network it was made from does."""
