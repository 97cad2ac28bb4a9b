"""The ways to tune by the names that a study file uses."""

from hpo import members
from hpo.training.methods.base import Method

METHODS: dict[str, Method] = members.load_members(__name__, members.METHODS)
