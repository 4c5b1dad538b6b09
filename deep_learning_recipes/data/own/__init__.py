"""The user's own data, by path: folders of images, arrays, tables, text, series.

`read` answers for whatever classifies, `texts` for language models, `times` for series.
Nothing is imported before a path asks for it.
"""

from deep_learning_recipes.data.own.asked import asking
from deep_learning_recipes.data.own.source import fingerprint, is_own

__all__ = ["asking", "fingerprint", "is_own"]
