"""`fairlead bench tunnel`, which says what is measured; the options are its own."""

import sys

from fairlead.cli.main import main

if __name__ == "__main__":
    main(["bench", "tunnel", *sys.argv[1:]])
