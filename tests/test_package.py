"""What is installed, and what importing it costs."""

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

import sae_nfm

ROOT = Path(__file__).parents[1]


def test_the_wheel_has_all_that_is_needed(tmp_path):
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = {name.removeprefix("sae_nfm/") for name in ZipFile(wheel).namelist()}
    assert {"py.typed", "__init__.py", "api/dictionary.py", "conf/study.yaml"} <= names
    assert "assets/docs_lm/model.safetensors" in names


def test_the_package_alone_imports_no_torch():
    code = (
        "import sys, sae_nfm; assert set(sae_nfm.__all__) <= set(dir(sae_nfm)); "
        "print([name for name in ('torch', 'transformers', 'hydra', 'lightning') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"


def test_what_there_is_not_has_no_name():
    with pytest.raises(AttributeError, match="has no attribute 'stduy'"):
        sae_nfm.stduy  # noqa: B018
