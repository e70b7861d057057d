"""A container's health check: `healthcheck.py URL [COMPONENT]`. Standard library only, as it runs every 30 seconds.

Fails where the URL answers with an error, or where its JSON does not say that the component is healthy, the way Airflow
reports its scheduler, DAG processor and triggerer by their heartbeats.
"""

import json
import sys
import urllib.request

url, *components = sys.argv[1:]
direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
with direct.open(url, timeout=10) as response:
    health = json.load(response)
for component in components:
    if (status := health[component]["status"]) != "healthy":
        sys.exit(f"{component} is {status}")
