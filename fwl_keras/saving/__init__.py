"""What a saved file may name: nothing of it is built or imported before it is checked."""

from fwl_keras.saving.check_config import check_config
from fwl_keras.saving.check_model_file import check_model_file
from fwl_keras.saving.check_weights_file import check_weights_file
from fwl_keras.saving.saved_classes import SAVED_CLASSES

__all__ = ["SAVED_CLASSES", "check_config", "check_model_file", "check_weights_file"]
