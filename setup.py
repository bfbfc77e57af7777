"""Reads everything from settings.ini, so that metadata lives in one place."""
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="], interpolation=None)
parser.read(here / "settings.ini", encoding="utf-8")
cfg = parser["DEFAULT"]

suffix = "_requirements"
extras = {key[: -len(suffix)]: value.split() for key, value in cfg.items() if key.endswith(suffix)}

setup(name=cfg["lib_name"], version=cfg["version"], description=cfg["description"],
      long_description=(here / "README.md").read_text(encoding="utf-8"),
      long_description_content_type="text/markdown", keywords=cfg["keywords"], author=cfg["author"],
      license="Apache-2.0", license_files=["LICENSE"],
      classifiers=["Programming Language :: Python :: 3",
                   *(f"Programming Language :: Python :: {v}" for v in cfg["pythons"].split())],
      python_requires=f">={cfg['min_python']}",
      packages=find_packages(include=[cfg["lib_name"], f"{cfg['lib_name']}.*"]),
      package_data={cfg["lib_name"]: ["data/*", "presets/*", "accelerate/*"]},
      install_requires=cfg["requirements"].split(), extras_require=extras,
      entry_points={"console_scripts": cfg["console_scripts"].split()},)
