"""Sqlite3 files of bags: rows are listed first, then each message is fetched by its row number."""

import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import quote

from perception_nodes.drives.bag_file import BagFile, MessageList, Messages, Segment

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
        self._rows: dict[str, MessageList] = {}
        self._database = self._open(file)
        try:
            self._list()
        except BaseException:
            self.close()
            raise

    def segments(self, topics: Collection[str]) -> list[Segment]:
        """One segment for each topic that has messages."""
        return [
            Segment(min(rows.times_ns), 0, partial(self._messages, topic))
            for topic, rows in self._rows.items()
            if topic in topics and rows.times_ns
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
        self._rows = {name: MessageList() for name in names.values()}
        nameless = 0
        timeless: Counter[str] = Counter()
        for row, topic, log_time_ns in self._numbers():
            if topic in names and not (isinstance(log_time_ns, int) and log_time_ns >= 0):
                timeless[names[topic]] += 1
            elif topic in names:
                self._rows[names[topic]].add(log_time_ns, row)
            else:
                nameless += 1
        if nameless:
            self.damage.note(f"{nameless} messages are of topics whose description is lost")
        if timeless:
            self.damage.note(f"{timeless.total()} messages have a log time before 1970, or none")
        self.counts.update({name: len(rows.places) for name, rows in self._rows.items()})
        self.recorded.update(self.counts + timeless)
        every = [rows.times_ns for rows in self._rows.values() if rows.times_ns]
        self.start_ns = min(map(min, every), default=0)
        self.end_ns = max(map(max, every), default=0)

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
        for log_time_ns, row in self._rows[topic].in_order():
            if (data := self._data(row)) is not None:
                yield log_time_ns, topic, data

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
