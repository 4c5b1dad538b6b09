"""The user's own data, by path: folders of images, arrays, tables, text, series.

`reading` answers whatever kind lies at a path: `folder`, `arrays`, `tabular`, `texts`,
`times` (series) or `saved` (by Hugging Face). No library is imported before a path asks
for it.
"""

from deep_learning_recipes.data.own.asked import asking
from deep_learning_recipes.data.own.source import fingerprint, is_own

__all__ = ["asking", "fingerprint", "is_own"]
