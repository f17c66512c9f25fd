"""Names for type hints."""

from typing import Any

# Whatever the Keras backend in use calls a tensor, or what it converts to one.
Tensor = Any
