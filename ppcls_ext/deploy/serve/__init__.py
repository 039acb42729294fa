"""An HTTP demonstration of an export: a page that takes a picture and shows classes or boxes, and a JSON endpoint.

It is built on the standard library's ``http.server`` alone: whoever installs only the runtime needs no web framework
for it. (Flask stands in requirements.lock because VisualDL's viewer imports it, not in the runtime's needs, and its own
development server is ``http.server``, too.)

with ServedModel.open("output/quickstart/export") as model, open_server(model, port=8000) as server:
    server.serve_until_interrupted()
"""

from __future__ import annotations

from ppcls_ext.deploy.serve.limits import Limits
from ppcls_ext.deploy.serve.model import Question, ServedModel
from ppcls_ext.deploy.serve.server import DemoServer, is_loopback, open_server

__all__ = ["DemoServer", "Limits", "Question", "ServedModel", "is_loopback", "open_server"]
