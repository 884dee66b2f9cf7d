"""`fairlead bench fleet`, which says what is measured; the options are its own."""

import sys

from fairlead.cli.main import main

if __name__ == "__main__":
    main(["bench", "fleet", *sys.argv[1:]])
