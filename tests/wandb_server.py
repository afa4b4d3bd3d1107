"""Stands for W&B's server: says yes to what a run asks for, keeps it, and can go away."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves at `url` until `stop`."""

    def __init__(self):
        self.runs, kept = [], self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                sent = self.rfile.read(int(self.headers["Content-Length"]))
                is_query = self.path == "/graphql"
                body = json.dumps({"data": kept.answer(json.loads(sent))}).encode() if is_query else b"{}"
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, asked):
        """What the server has to say to a query."""
        query, variables = asked["query"], asked.get("variables") or {}
        if "upsertBucket" in query:
            self.runs.append(variables)
            project = {"name": "tests", "entity": {"name": "me"}}
            bucket = {
                "id": "1",
                "name": variables["name"],
                "displayName": "",
                "config": "{}",
                "project": project,
            }
            return {"upsertBucket": {"bucket": bucket | {"historyLineCount": 0}, "inserted": True}}
        if "createRunFiles" in query:
            return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": []}}
        if "viewer" in query:
            return {
                "viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}
            }
        return {"model": {"bucket": None}}

    def stop(self):
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()
