"""Package metadata of transavs. detectron2, which PyPI lacks, comes from tools/install_detectron2.py."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
COMMANDS = runpy.run_path(str(HERE / "tools/console.py"))["COMMANDS"]
FOLDERS = {"transavs_tools": "tools", "transavs_datasets": "datasets", "transavs.configs": "configs"}

setup(
    name="transavs",
    description="Audio-visual segmentation on detectron2: TransAVS and the AVSBench benchmark",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The transavs authors",
    url="https://github.com/transavs/transavs",
    license="Apache-2.0",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Multimedia :: Video",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    # The scripts go along as packages of their own: one of them must run where transavs cannot be imported yet.
    packages=[*find_packages(include=("transavs", "transavs.*")), *FOLDERS],
    package_dir=FOLDERS,
    package_data={"transavs": ["py.typed"], "transavs.configs": ["**/*.yaml"], "transavs_datasets": ["*.csv"]},
    entry_points={"console_scripts": [f"{command}=transavs_tools.console:main" for command in COMMANDS]},
    python_requires=">=3.11",
    install_requires=[
        # torchaudio 2.11, the last one, is of CUDA 13.0 and refuses a torch of another, as PyPI's 2.15 is.
        "torch>=2.6,<2.15",
        "torchvision>=0.21",
        "torchaudio>=2.6",
        "numpy>=1.26",
        "Pillow>=10.3",
        "opencv-python-headless>=4.8",
        "soundfile>=0.12",
        "av>=14",
        "safetensors>=0.4",
        "huggingface_hub>=0.25",
        "timm>=1.0.9",
        "pycocotools>=2.0.8",
        "fvcore>=0.1.5.post20221221",
        "iopath>=0.1.9",
        "PyYAML>=6",
        "matplotlib>=3.8",
        "tabulate>=0.9",
        "tensorboard>=2.15",
        "tqdm>=4.66",
        # What detectron2 imports beside the above.
        "cloudpickle>=3",
        "hydra-core>=1.3",
        "omegaconf>=2.3",
        "termcolor>=2.3",
        "yacs>=0.1.8",
        # What transavs-install-detectron2 has pip build it with.
        "setuptools>=70.1",
    ],
    extras_require={
        "export": ["torch>=2.9", "onnx>=1.17", "onnxruntime>=1.20", "onnxscript>=0.5.4"],
        "web": ["gradio>=6.31"],
        "wandb": ["wandb>=0.16"],
        # AST and CLAP; and what tests compare Mask2Former's parts with.
        "encoders": ["transformers>=5.24"],
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "playwright>=1.40",
            "ruff>=0.8",
            "mypy>=1.13",
            "codespell>=2.3",
            "pre-commit>=4",
            "pre-commit-hooks>=5",
            "transformers>=5.24",
        ],
    },
)
