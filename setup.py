"""What goes into the installed package; its name, version and needs stand in pyproject.toml.

Beside the package vae itself, and as vae/_app, that is what lies next to it here: app.py, pages/,
.streamlit/ and checkpoints/. vae/paths.py finds them in both places.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vae", "vae.*"]), "vae._app"],
    package_dir={"vae._app": "."},
    package_data={
        "vae": ["**/*.js", "**/*.css", "**/*.html", "**/*.svg"],
        "vae._app": [
            "pages/*.py",
            ".streamlit/config.toml",
            "checkpoints/README.md",
            "checkpoints/*/*",
        ],
    },
    script_name="setup.py",  # which leaves this file out
)
