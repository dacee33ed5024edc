"""Installs the package with the embedded world beside its code; everything else is said in pyproject.toml."""

from setuptools import find_packages, setup

setup(
    packages=find_packages(include=["clear_ref", "clear_ref.*"]),
    package_data={"clear_ref": ["data/texts/*.txt", "data/mini/**/*"]},
)
