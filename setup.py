"""The packages that are installed. pyproject.toml cannot put configs/ into the package."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["jaxvid*"]), "jaxvid.shipped.configs"],
    package_dir={"jaxvid.shipped.configs": "configs"},
)
