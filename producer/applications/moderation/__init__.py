"""Content moderation for a caller: posts in, decisions out, and the desk of those who review.

    with Client() as client, Moderator(client) as moderator:
        moderator.moderate("Nice weather today").decision
"""

from celeriac.applications.moderation.decision import Post
from celeriac.applications.moderation.policy import Policy, read_policy
from producer.applications.moderation.decisions import Decision
from producer.applications.moderation.moderator import AsyncModerator, Moderator

__all__ = ["AsyncModerator", "Decision", "Moderator", "Policy", "Post", "read_policy"]
