"""Compression: what makes a student smaller. Each module that changes a network's structure can replay its edit."""
