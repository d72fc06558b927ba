"""`python -m asgi_llm_gateway` is `llm-gateway`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
