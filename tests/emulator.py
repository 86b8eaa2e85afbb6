"""An emulator of Google Cloud Storage, with what it leaves out: preconditions and permissions.

It also keeps the last byte of a file that ends in a carriage return, which the emulator takes for
half of the line break of gcsfs.

python tests/emulator.py PORT
"""

import re
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


def exact(decode):
    """Gives the parts of an upload line breaks of two bytes, so that one that is data stays."""

    def decoded(raw, request):
        raw = decode(raw, request)
        kind = request.headers.get("Content-Type") or ""
        if kind.startswith("multipart/related"):
            mark = b"--" + re.search('boundary="?([^";]+)', kind)[1].encode()
            if raw.startswith(mark + b"\n"):
                raw = raw.replace(b"\n" + mark, b"\r\n" + mark)
        return raw

    return decoded


if __name__ == "__main__":
    socketserver.TCPServer.request_queue_size = 1024  # past 5, clients would try again and again
    for name in ("insert", "delete"):
        setattr(objects, name, guarded(getattr(objects, name)))

    from gcp_storage_emulator import server  # which takes the handlers as they are

    server._decode_raw_data = exact(server._decode_raw_data)
    from gcp_storage_emulator.__main__ import main

    address = ["--host=127.0.0.1", f"--port={sys.argv[1]}"]
    main(["start", *address, "--in-memory", "--default-bucket=bucket"])
