"""The names of the methods and of their semantics, without torch, for the command line."""

from .recipes import METHOD_RECIPES

METHOD_NAMES = tuple(METHOD_RECIPES)
SEMANTICS = ("paper", "released", "original")
STAGES = ("base", "gold", *METHOD_NAMES)
