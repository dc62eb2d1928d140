"""Sqlite3 files of bags: rows are listed first, then each message is fetched by its row number."""

import shutil
import sqlite3
import tempfile
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import quote

from perception_nodes.drives.bag_file import BagFile, Messages, Segment

GIVE_UP_AFTER = 10_000
"""Consecutive unreadable rows after which the rest of the table counts as lost."""
JOURNALS = ("-wal", "-journal")
"""Suffixes of files in which sqlite keeps changes that a crash left unfinished."""
UNREADABLE = (sqlite3.Error, OverflowError)


class SqliteFile(BagFile):
    """A sqlite3 file; see `BagFile`. It has no index that says how much was recorded."""

    def __init__(self, file: Path) -> None:
        """List its rows; if the file is damaged, the readable ones."""
        super().__init__()
        self.indexed = False
        self._stack = ExitStack()
        self._rows: dict[str, tuple[array[int], array[int]]] = {}
        self._database = self._open(file)
        try:
            self._list()
        except BaseException:
            self.close()
            raise

    def segments(self, topics: Collection[str]) -> list[Segment]:
        """One segment for each topic that has messages."""
        return [
            Segment(min(times_ns), 0, partial(self._messages, topic))
            for topic, (times_ns, _) in self._rows.items()
            if topic in topics and times_ns
        ]

    def close(self) -> None:
        """Close the file."""
        self._database.close()
        self._stack.close()

    def _open(self, file: Path) -> sqlite3.Connection:
        journals = [file.with_name(file.name + suffix) for suffix in JOURNALS]
        journals = [journal for journal in journals if journal.exists() and journal.stat().st_size]
        where = f"file:{quote(str(file))}?immutable=1"
        if journals:
            # Sqlite would change the file when it reads these, but a recording must not change.
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
            for one in (file, *journals):
                shutil.copyfile(one, folder / one.name)
            where = f"file:{quote(str(folder / file.name))}"
        # Another thread than the one that opens the file reads frames ahead; both take turns.
        database = sqlite3.connect(where, uri=True, check_same_thread=False)
        database.text_factory = lambda data: data.decode(errors="replace")
        # Without this sqlite refuses a file that is shorter than its header says.
        database.execute("PRAGMA writable_schema=ON")
        return database

    def _list(self) -> None:
        try:
            topics = list(self._database.execute("SELECT id, name, type FROM topics"))
        except UNREADABLE as error:
            self.damage.note(f"sqlite cannot read its list of topics: {error}")
            return
        names = {number: str(name) for number, name, _ in topics}
        self.types = {str(name): str(message_type) for _, name, message_type in topics}
        self._rows = {name: (array("q"), array("q")) for name in names.values()}
        start_ns, end_ns, nameless = 2**63, -(2**63), 0
        timeless: Counter[str] = Counter()
        for row, topic, log_time_ns in self._numbers():
            if topic in names and not (isinstance(log_time_ns, int) and log_time_ns >= 0):
                timeless[names[topic]] += 1
            elif topic in names:
                times_ns, rows = self._rows[names[topic]]
                times_ns.append(log_time_ns)
                rows.append(row)
                start_ns, end_ns = min(start_ns, log_time_ns), max(end_ns, log_time_ns)
            else:
                nameless += 1
        if nameless:
            self.damage.note(f"{nameless} messages are of topics whose description is lost")
        if timeless:
            self.damage.note(f"{timeless.total()} messages have a log time before 1970, or none")
        self.counts.update({name: len(rows) for name, (_, rows) in self._rows.items()})
        self.recorded.update(self.counts + timeless)
        if start_ns <= end_ns:
            self.start_ns, self.end_ns = start_ns, end_ns

    def _numbers(self) -> Iterator[tuple[int, int, int]]:
        """Number, topic and log time of each row; unreadable rows are skipped and counted."""
        last, lost, failures = 0, 0, 0
        query = "SELECT id, topic_id, timestamp FROM messages WHERE id > ? ORDER BY id"
        while failures < GIVE_UP_AFTER:
            try:
                for row, topic, log_time_ns in self._database.execute(query, (last,)):
                    if row <= last:
                        # Pages of a damaged file may form a loop.
                        raise sqlite3.DatabaseError("they come out of order")
                    last, lost, failures = row, lost + failures, 0
                    yield row, topic, log_time_ns
                break
            except UNREADABLE as error:
                if not failures:
                    self.damage.note(f"rows behind number {last} of its messages: {error}")
                last, failures = last + 1, failures + 1
        if lost:
            self.damage.note(f"{lost} messages between readable ones are lost")

    def _messages(self, topic: str) -> Messages:
        times_ns, rows = self._rows[topic]
        for number in sorted(range(len(rows)), key=times_ns.__getitem__):
            data = self._data(rows[number])
            if data is not None:
                yield times_ns[number], topic, data

    def _data(self, row: int) -> bytes | None:
        try:
            found = self._database.execute("SELECT data FROM messages WHERE id = ?", (row,))
            data = next(found, (None,))[0]
        except UNREADABLE as error:
            self.damage.note(f"row {row} of its messages cannot be read: {error}")
            return None
        if not isinstance(data, bytes):
            self.damage.note(f"row {row} of its messages holds no message")
            return None
        return data
