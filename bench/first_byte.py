"""Prints how long the first byte of a GET's body takes, as JSON: first_byte.py URL [RANGE]. Follows redirects."""

import json
import sys
import time
import urllib.request

request = urllib.request.Request(sys.argv[1])
if len(sys.argv) > 2 and sys.argv[2]:
    request.add_header("Range", f"bytes={sys.argv[2]}")
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
began = time.monotonic()
with opener.open(request, timeout=100) as response:
    got = response.read(1)
    took = time.monotonic() - began
if len(got) != 1:
    sys.exit("there is no body")
print(json.dumps({"seconds": took}))
