"""A run against an earlier one: what changed, and what of it is more than noise."""
