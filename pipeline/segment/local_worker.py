"""The process that `local_workers.py` starts: it receives shards and sends summaries through one pipe."""

import os
import signal
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from pipeline.segment.shard_progress import Count


def main(handle: int) -> None:
    """Answer shards until the driver's end of the pipe is closed.

    Args:
        handle: file descriptor of the pipe. The first message is the config of the run that is about to begin, or None if it is
            not known; the second holds the arguments of `Segmenter`; each later one is a shard.
    """
    connection, inbox, lock = Connection(handle), SimpleQueue[Any](), threading.Lock()
    threading.Thread(target=_receive, args=(connection, inbox), daemon=True).start()

    def send(kind: str, value: Any) -> None:
        with lock:
            connection.send((kind, value))

    def send_count(count: Count) -> None:
        send("count", count)

    import pyarrow as pa

    from pipeline.segment.actor import Segmenter, loaded_ahead  # takes seconds, while the driver plans

    ahead = loaded_ahead(inbox.get())
    segmenter = Segmenter(**inbox.get(), send=send_count, ahead=ahead)
    while True:
        row = segmenter(pa.table({"shard": [inbox.get()]}))
        send("summary", row.to_pylist()[0])


def _receive(connection: Connection, inbox: "SimpleQueue[Any]") -> None:
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):  # the driver has ended, for whatever reason
            os.killpg(0, signal.SIGKILL)  # this process, which leads its group, and its children
