"""Content moderation: what a post is asked, and what its answers decide by a policy.

``reading`` makes of a text what models and lists are to see, ``policy`` has the thresholds,
``decision`` decides, ``audit`` keeps why, ``reviews`` has what people are to look at, and
``archive`` decides on whole datasets. Models are asked by ``producer/applications/moderation``.
"""
