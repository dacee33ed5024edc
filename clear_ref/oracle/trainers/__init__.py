"""A fake model for `conform`: a trainer of another project runs on it. See README.md."""

from .fake_accelerator import FakeAccelerator
from .fake_model import FakeModel
from .fakes import Fakes

__all__ = ["FakeAccelerator", "FakeModel", "Fakes"]
