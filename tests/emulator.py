"""An emulator of Google Cloud Storage, with what it leaves out: preconditions and permissions.

python tests/emulator.py PORT
"""

import socketserver
import sys
import threading
from http import HTTPStatus

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

FORBIDDEN = "forbidden"  # the name of a bucket into which nobody may write


def guarded(act):
    """A handler of the emulator with what that leaves out: preconditions and permissions."""
    one_at_a_time = threading.Lock()

    def handle(request, response, storage, *args, **kwargs):
        bucket = request.params["bucket_name"]
        if bucket == FORBIDDEN:
            response.status = HTTPStatus.FORBIDDEN
            return None
        (wanted,) = request.query.get("ifGenerationMatch", [None])
        with one_at_a_time:
            if wanted is not None:
                (named,) = request.query.get("name", [request.params.get("object_id")])
                named = named or request.data["meta"]["name"]
                try:
                    there = storage.get_file_obj(bucket, named)["generation"]
                except NotFound:
                    there = "0"
                if there != wanted:
                    response.status = HTTPStatus.PRECONDITION_FAILED
                    return None
            return act(request, response, storage, *args, **kwargs)

    return handle


if __name__ == "__main__":
    socketserver.TCPServer.request_queue_size = 1024  # past 5, clients would try again and again
    for name in ("insert", "delete"):
        setattr(objects, name, guarded(getattr(objects, name)))

    from gcp_storage_emulator.__main__ import main  # which takes the handlers as they are

    address = ["--host=127.0.0.1", f"--port={sys.argv[1]}"]
    main(["start", *address, "--in-memory", "--default-bucket=bucket"])
