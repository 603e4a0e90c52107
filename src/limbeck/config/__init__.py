"""YAML <-> the dataclasses of `limbeck.recipe`.  No torch is needed to read a recipe.

A recipe is data: nothing in a file is imported, evaluated or called by name, except what limbeck's own catalogue lists.
"""

from __future__ import annotations

from limbeck.config.dump import recipe_hash, to_data, to_plain, to_yaml
from limbeck.config.reading import Parsed, check, read, read_recipe
from limbeck.config.schema import schema

__all__ = ["Parsed", "check", "read", "read_recipe", "recipe_hash", "schema", "to_data", "to_plain", "to_yaml"]
