"""What was measured: samples by row and subject, and what each row is judged by."""

import statistics


class Row:
    """One line of the table. `better` is "more" or "less"; `rival` is the subject that wtfs is compared with."""

    def __init__(self, key, title, unit, better, rival=None, target=None, limit=None):
        self.key, self.title, self.unit, self.better = key, title, unit, better
        self.rival, self.target, self.limit = rival, target, limit
        self.samples, self.failures = {}, {}

    def value(self, subject):
        found = self.samples.get(subject)
        return statistics.median(found) if found else None

    def ratio(self):
        ours, theirs = self.value("wtfs"), self.value(self.rival) if self.rival else None
        if ours is None or not theirs:
            return None
        return ours / theirs

    def is_met(self):
        """True or False where the row has a target and was measured, else None."""
        ours = self.value("wtfs")
        if self.target is not None:
            ratio = self.ratio()
            return None if ratio is None else (ratio >= self.target if self.better == "more" else ratio <= self.target)
        if self.limit is not None and ours is not None:
            return ours >= self.limit if self.better == "more" else ours <= self.limit
        return None

    def target_text(self):
        if self.target is not None:
            return f"{'>=' if self.better == 'more' else '<='} {self.target:g} x {self.rival}"
        if self.limit is not None:
            return f"{'>=' if self.better == 'more' else '<='} {self.limit:g} {self.unit}"
        return ""


class Results:
    """All rows of a run, in the order in which they were first met."""

    def __init__(self):
        self.rows, self.notes = {}, []

    def row(self, key, title, unit, better, **more):
        if key not in self.rows:
            self.rows[key] = Row(key, title, unit, better, **more)
        return self.rows[key]

    def failed_rows(self):
        return [row for row in self.rows.values() if row.failures.get("wtfs")]

    def as_json(self):
        return [
            {
                "key": row.key, "title": row.title, "unit": row.unit, "better": row.better, "samples": row.samples,
                "failures": row.failures, "rival": row.rival, "ratio": row.ratio(), "target": row.target_text(),
                "met": row.is_met(),
            }
            for row in self.rows.values()
        ]
