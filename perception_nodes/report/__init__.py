"""Parts of what people see of a run: recordings, pages, charts, pictures, the terminal view."""
