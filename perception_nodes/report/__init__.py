"""What people see of a run: recordings, pages, charts, annotated pictures, the terminal view."""
