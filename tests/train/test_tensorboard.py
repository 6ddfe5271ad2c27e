"""Event files, read back with the protocol buffers and check sums of another writer of them."""

import io
import struct
import time

import pytest
from etils import epath
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from fmzoo.train.tensorboard import EventFile


def read(path):
    """The events of a file: length, its check sum, the event, its check sum."""
    content, events = path.read_bytes(), []
    while content:
        (size,) = struct.unpack("<Q", content[:8])
        data = content[12 : 12 + size]
        for part, place in ((content[:8], 8), (data, 12 + size)):
            assert struct.unpack("<I", content[place : place + 4])[0] == masked_crc32c(part)
        events.append(Event.FromString(data))
        content = content[16 + size :]
    return events


def test_scalars_are_read_back_step_by_step(tmp_path):
    events = EventFile(tmp_path / "tensorboard", purge_step=4)
    events.add(4, {"loss": 2.5, "grad_norm": float("nan")})
    events.add(5_000_000_000, {"loss": 2.25, "β" * 100: 0.0})
    events.close()
    (path,) = (tmp_path / "tensorboard").iterdir()
    version, start, *rest = read(path)
    assert path.name.startswith("events.out.tfevents.")
    assert version.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (4, SessionLog.SessionStatus.START)
    assert [(e.step, [v.tag for v in e.summary.value]) for e in rest] == [
        (4, ["loss", "grad_norm"]),
        (5_000_000_000, ["loss", "β" * 100]),
    ]
    assert all(0 <= time.time() - e.wall_time < 60 for e in (version, start, *rest))
    assert [e.summary.value[0].simple_value for e in rest] == [2.5, 2.25]


def test_files_of_one_second_do_not_meet(tmp_path):
    for _ in range(3):
        EventFile(tmp_path).close()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_full_disk_is_an_error_here_and_not_in_a_thread(tmp_path, monkeypatch):
    full = io.BufferedWriter(io.FileIO("/dev/full", "w"))  # which takes nothing
    monkeypatch.setattr(type(epath.Path(tmp_path)), "open", lambda *_: full)
    events = EventFile(tmp_path)
    events.add(1, {"loss": 1.0})
    with pytest.raises(OSError, match="No space left"):
        events.close()
