"""With this folder on PYTHONPATH, a Python finds neither TensorFlow nor other packages of keras-nlp
that `make gpu-wheels` leaves out."""

import importlib.machinery
import sys
from typing import Any

MISSING = ("tensorflow", "tensorflow_text", "kagglehub", "sentencepiece")


class WithoutTensorFlow:
    """The finder of modules on the path, to which these are not installed."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] in MISSING:
            return None
        return importlib.machinery.PathFinder.find_spec(name, path, target)


sys.meta_path = [
    WithoutTensorFlow if finder is importlib.machinery.PathFinder else finder
    for finder in sys.meta_path
]
