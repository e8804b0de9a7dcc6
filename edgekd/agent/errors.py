"""The one error of the agent."""

from __future__ import annotations


class AgentError(Exception):
    """An error whose message is all a user needs: what was asked, what exists, what to do."""
