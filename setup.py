"""What pyproject.toml cannot say: packages lie in three places, and conf/ goes into the wheel as adaptbench/conf/."""

from setuptools import find_packages, setup

setup(
    packages=[
        *find_packages("src"),
        *find_packages(include=["experiments", "experiments.*", "analysis"]),
        "hydra_plugins",  # Hydra's namespace, so without __init__.py
        "adaptbench.conf",
    ],
    package_dir={"": "src", "experiments": "experiments", "analysis": "analysis", "adaptbench.conf": "conf"},
)
