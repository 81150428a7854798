"""Package definition of odin-beam: `pip install .` gives the console script `odin-beam`."""

import re
from pathlib import Path

from setuptools import find_packages, setup

# Read, not imported: building must not need the dependencies.
VERSION = re.search(
    r'__version__ = "(.+)"', Path(__file__).with_name("transforms").joinpath("__init__.py").read_text()
)[1]

setup(
    name="odin-beam",
    version=VERSION,
    description="Offline out-of-distribution scoring of very large image archives: ODIN on Apache Beam",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    # `odin_beam/pipeline` and `odin_beam/transforms` are links to the folders at the top: nothing but `odin_beam` is
    # installed, where `pipeline` and `transforms` would collide with modules of the user's own.
    packages=find_packages(include=["odin_beam*"]),
    package_data={"odin_beam": ["py.typed"], "odin_beam.pipeline": ["demo_data/*", "show/*.jinja"]},
    install_requires=[
        "apache-beam>=2.77,<2.78",
        "google-crc32c>=1.6,<2",
        "jinja2>=3.1,<4",
        # The list of what a model file may name, and the way it is loaded, follow this version.
        "keras>=3.15,<3.16",
        "matplotlib>=3.9,<4",
        "numpy>=2.1,<3",
        "pillow>=11,<13",
        "pyarrow>=21,<26",
        "scipy>=1.14,<2",
        "tensorflow>=2.21,<2.22",
        "tensorflow-datasets>=4.9.9,<5",
        "tqdm>=4.66,<5",
    ],
    extras_require={
        "gcp": ["apache-beam[gcp]>=2.77,<2.78"],
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "test": [
            "apache-beam[gcp]>=2.77,<2.78",
            "duckdb>=2,<3",
            "fastapi>=0.115,<1",
            "gcp-storage-emulator>=2026.7,<2027",
            "httpx>=0.27,<1",
            "hypothesis>=6.100,<7",
            # TensorFlow Datasets' writer imports it without declaring it.
            "importlib-resources>=6,<8",
            "ipykernel>=6.29,<8",
            "mypy>=1.15,<3",
            "nbclient>=0.10,<0.12",
            "nbformat>=5.10,<6",
            "pandas>=2.2,<4",
            "polars>=1.20,<3",
            "pytest>=8,<10",
            "pytest-xdist>=3.6,<4",
            "python-multipart>=0.0.9,<1",
            "ruff>=0.14,<0.18",
            "scikit-learn>=1.5,<2",
            "setuptools>=70",
            "tf-keras>=2.21,<2.22",
        ],
    },
    entry_points={"console_scripts": ["odin-beam = odin_beam.pipeline.main:main"]},
)
