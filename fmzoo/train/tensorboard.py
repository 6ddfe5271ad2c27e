"""Scalars as TensorBoard reads them: an event file written here and now, without a thread that could fail alone."""

import itertools
import os
import socket
import time
from collections.abc import Mapping

from etils import epath

SECONDS_BETWEEN_FLUSHES = 10
_NUMBERS = itertools.count()


class EventFile:
    """A new event file in a folder, for a run that starts or goes on.

    Raises:
      OSError: it cannot be written, when made, added to or closed.
    """

    def __init__(self, folder: epath.PathLike, purge_step: int = 0):
        """Opens it.

        Args:
          folder: local; made if it is not there.
          purge_step: what older files of the folder say of later steps is void.
        """
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.record_writer import RecordWriter

        folder = epath.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._file, self._flushed = RecordWriter(os.fspath(folder / name)), time.monotonic()
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.SessionStatus.START)
        self._write(Event(wall_time=time.time(), step=purge_step, session_log=start))

    def add(self, step: int, scalars: Mapping[str, float]) -> None:
        """Adds scalars by name; they are on disk some seconds later, or when the file is closed."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=value) for name, value in scalars.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        if time.monotonic() - self._flushed > SECONDS_BETWEEN_FLUSHES:
            self._flushed = time.monotonic()
            self._file.flush()

    def close(self) -> None:
        """Puts the rest on disk."""
        self._file.close()

    def _write(self, event: object) -> None:
        self._file.write(event.SerializeToString())
