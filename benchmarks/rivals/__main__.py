"""`python -m benchmarks.rivals CORPUS`, from the repository's root."""

import sys

# To anybody but its own command the package gives all of itself at once; here, as there, Keras is
# imported quietly, and only where it is needed.
sys.argv[0] = "fwl-keras"

from benchmarks.rivals.command import main  # noqa: E402

main()
