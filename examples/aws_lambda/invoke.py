"""Calls the handler as Lambda does for a request through API Gateway."""

import sys

from function import handler

PART, USER, YACHT = sys.argv[1:]
event = {
    "pathParameters": {"part": PART},
    "headers": {"x-user": USER, "x-yacht": YACHT},
    "requestContext": {"requestId": "made-up", "http": {"sourceIp": "203.0.113.9", "userAgent": "curl"}},
}
print(handler(event, None)["body"])
